"""Configuration: typos, inheritance, round trips, and every config that is shipped."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, load
from PIL import Image

from ldm import config
from ldm.config import schema
from ldm.diffusion.schedules import Cosine, Discrete
from ldm.diffusion.solvers import DDIM, DPMpp2M
from ldm.errors import Refusal
from ldm.pictures.space import Latents, Pixels
from ldm.sampling.model import restore

SHIPPED = sorted(ROOT.glob("configs/**/*.yaml"))
PIXEL = ROOT / "configs/digits/pixel.yaml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_loads_and_round_trips(path):
    run = config.load(path)
    assert config.from_dict(schema.to_dict(run)) == run


def test_base_and_overrides():
    run = config.load(
        PIXEL,
        ["schedule.name=Cosine", "sample.solver={name: DDIM, eta: 0.5}", "trainer.max_steps=7"],
    )
    assert (
        isinstance(run.space, Pixels)
        and run.schedule == Cosine()
        and run.sample.solver == DDIM(0.5)
    )
    assert run.trainer.max_steps == 7 and run.network.channels == (32, 64)
    run = config.load(PIXEL, ["schedule=Discrete", "schedule.steps=50"])
    assert run.schedule == Discrete(steps=50) and run.sample.solver == DPMpp2M()


def test_stage_1_is_found_beside_the_config_that_names_it():
    run = config.load(ROOT / "configs/digits/latent.yaml")
    assert (
        isinstance(run.space, Latents)
        and Path(run.space.autoencoder) == ROOT / "configs/digits/autoencoder.yaml"
    )


def test_saved_config_is_the_config(tmp_path):
    run = config.load(PIXEL)
    config.save_config(run, tmp_path / "c.yaml")
    assert config.load(tmp_path / "c.yaml") == run


TYPOS = [
    (["trainer.max_stpes=3"], r"no key 'trainer.max_stpes'; did you mean 'max_steps'\?"),
    (["sampel.steps=3"], r"no key 'sampel'; did you mean 'sample'\?"),
    (["sample.solver.etta=1"], r"no key 'sample.solver.etta'"),
    (
        ["schedule.name=Cosin"],
        r"schedule.name: 'Cosin' is not one of VP, SubVP, Cosine, VE, Linear, Discrete; did you mean 'Cosine'\?",
    ),
    (
        ["sample.solver=DPM"],
        r"sample.solver.name: 'DPM' is not one of DDPM, DDIM, .*Diffusers; did you mean",
    ),
    (["data.name=Digit"], r"data.name: 'Digit' is not one of .*; did you mean 'Digits'\?"),
    (["loss.predict=vv"], r"loss.predict: 'vv' is not one of eps, x0, v, edm"),
    (
        ["loss.times=LogNormall"],
        r"loss.times.name: 'LogNormall' is not one of Uniform, .*; did you mean 'LogNormal'\?",
    ),
    (["loss.times={name: LogNormal, std: 0}"], r"loss.times: LogNormal needs std above 0"),
    (
        ["loss.times=Importance", "schedule=Discrete"],
        r"Importance needs a schedule of continuous time",
    ),
    (
        ["loss.predict=score", "schedule=Linear"],
        r"Linear ends in pure noise \(alpha_1 = 0\), where predicting score is undefined",
    ),
    (["sample.grid=leading"], r"sample.grid=leading is of a table of times: schedule Discrete"),
    (
        ["stage=difusion"],
        r"stage: 'difusion' is not one of autoencoder, diffusion; did you mean 'diffusion'\?",
    ),
    (["trainer.max_steps=many"], r"trainer.max_steps: 'many' is not int"),
    (["trainer.max_steps=1.5"], r"trainer.max_steps: 1.5 is not int"),
    (["network.channels=[8,x]"], r"network.channels: \[8, 'x'\] is not tuple\[int, ...\]"),
    (["network.channels=[12]"], r"network: channels \(12,\) must be multiples"),
    (["sample.solver={name: DDIM, eta: 2}"], r"sample.solver: DDIM needs eta in \[0, 1\]"),
    (["data.batch_size=0"], r"data: batch_size must be at least 1"),
    (["optim=3"], r"optim: expected name: and settings, got 3"),
    (["space.name=Latents"], r"space.autoencoder is missing"),
    (["trainer.options.gradient_clip_val=1"], r"set optim.clip instead"),
    (
        ["trainer.options.limit_val_batchs=1"],
        r"no key 'trainer.options.limit_val_batchs'; did you mean 'limit_val_batches'",
    ),
    (["trainer.max_steps"], r"'trainer.max_steps' is not an override; write key=value"),
    (["trainer.max_steps=0"], r"trainer: max_steps must be at least 1, got 0"),
    (["trainer.devices=0"], r"trainer: devices must be auto, a number"),
    (["trainer.devices=foo"], r"trainer: devices must be auto, a number"),
    (["trainer.precision=bf16-true"], r"'bf16-true' is not one of auto, 32-true, bf16-mixed"),
    (["trainer.accumulate=0"], r"accumulate must be at least 1"),
    (["sample.steps=0"], r"sample: steps must be at least 1"),
    (["sample.count=-1"], r"sample: count must be at least 1"),
    (["optim.lr=-1"], r"optim: lr must be above 0"),
    (["optim.lr=nan"], r"optim.lr: nan is not a finite number"),
    (["optim.ema=1.5"], r"optim: ema must be in \[0, 1\)"),
    (["network.layers=0"], r"network: layers, head_dim and norm_groups must be at least 1"),
    (["network.norm_groups=0"], r"network: layers, head_dim and norm_groups must be at least 1"),
    (
        ["schedule={name: Discrete, zero_snr: true}", "loss.predict=eps"],
        r"zero_snr ends in pure noise",
    ),
    (["drop=2"], r"drop must be in \[0, 1\]"),
    (["seed=-1"], r"seed must be at least 0"),
    (["name=../elsewhere"], r"must be a plain folder name"),
    (["stage=[1]"], r"stage: '\[1\]' is not one of"),
    (["data={name: [a]}"], r"data.name: .* is not one of"),
    (["schedule.beta_min=-1"], r"schedule: VP needs 0 < beta_min"),
]


@pytest.mark.parametrize("given, message", TYPOS, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_typos(given, message):
    with pytest.raises(Refusal, match=message) as error:
        config.load(PIXEL, given)
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(Refusal, match=r"no file '.*pixle.yaml'; did you mean '.*pixel.yaml'"):
        config.load(PIXEL.parent / "pixle.yaml")
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(Refusal, match="leads back to itself"):
        config.load(tmp_path / "a.yaml")
    (tmp_path / "e.yaml").write_text("base: [x]")
    with pytest.raises(Refusal, match="base: names one file"):
        config.load(tmp_path / "e.yaml")
    (tmp_path / "c.yaml").write_text("name: [unclosed")
    with pytest.raises(Refusal, match="not readable as YAML"):
        config.load(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("optim: {lr: 1}")
    with pytest.raises(Refusal, match="name is missing"):
        config.load(tmp_path / "d.yaml")


def test_a_config_cannot_name_code():
    for text in ("os.system", "ldm.config.runs.load", "__import__", "torch.optim.SGD"):
        with pytest.raises(Refusal, match="is not one of"):
            config.load(PIXEL, [f"schedule.name={text}"])


def test_a_config_is_read_without_the_slow_packages():
    """diffusers is imported where a network is built, Lightning where one trains: a typo is
    answered in the time of torch.
    """
    slow = [
        "diffusers",
        "lightning",
        "transformers",
        "torchvision",
        "scipy",
        "wandb",
        "sklearn",
        "torchmetrics",
    ]
    program = f"""
import sys
from ldm import config
from ldm.errors import Refusal
try:
    config.load("configs/digits/latent.yaml", ["optm.lr=1"])
except Refusal as error:
    print(error, [name for name in {slow} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "did you mean 'optim'" in done.stdout and done.stdout.strip().endswith("[]"), done


# -- YAML of every kind: refused by one line, or meant as it is written ----------------------------
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
FILES = {
    "empty": (b"", "empty; a config is a list"),
    "comment": (b"# nothing\n", "empty; a config is a list"),
    "list": (b"- 1\n", "a config is a list of `key: value` lines"),
    "tab": (b"name: x\ntrainer:\n\tmax_steps: 3\n", "not readable as YAML"),
    "latin-1": ("name: caf\xe9".encode("latin-1"), "not readable as YAML"),
    "nul": (b"name: x\0y\n", "not readable as YAML"),
    "twice": (b"name: x\nname: y\n", "key 'name' stands twice"),
    "twice within": (b"name: x\noptim: {lr: 1, lr: 2}\n", "key 'lr' stands twice"),
    "deep": (b"name: " + b"[" * 5000, "nested too deep|not readable"),
    "deeper": (b"name: x\ndata: " + b"{a: " * 40 + b"1" + b"}" * 40, "nested too deep"),
    "bomb": (("name: x\ndata:\n" + BOMB).encode(), "too large for a config"),
    "loop": (b"name: &a [*a]\n", "nested too deep"),
    "merge": (b"name: x\noptim: {<<: {lr: 1}}\n", "no key 'optim.<<'"),
    "tag": (b"name: !!python/object/apply:os.system [true]\n", "not readable as YAML"),
    "binary": (b"name: !!binary aGk=\n", "bytes is no value of a config"),
    "number as key": (b"name: x\n1: 2\n", "a key is a text; put 1 in quotes"),
    "huge": (b"name: " + b"x" * 300_000, "over 256 kB"),
    "digits": (b"name: x\nseed: " + b"9" * 5000, "4300 digits|64 bits"),
    "null section": (b"name: x\noptim:\n", "optim: expected name: and settings, got None"),
    "base": (b"base: nowhere.yaml\n", "base: no file"),
    "base list": (b"base: [x]\n", "base: names one file"),
    "interpolation": (b"name: ${oc.env:HOME}\n", r"name: '\$\{oc.env:HOME\}' holds \$\{"),
    "broken interpolation": (b"name: ${oc.env\n", r"name: .* holds \$\{"),
    "escaped": (b"name: '\\${x}'\n", r"name: .* holds \$\{"),
    "in a list": (
        b"name: x\ndata: {name: ImageFolder, hold: [a, ['${seed}']]}\n",
        r"data.hold\[1\]\[0\]: .* holds \$\{",
    ),
    "as a key": (b"name: x\ndata: {'${oc.env:HOME}': 1}\n", r"data.\$\{oc.env:HOME\}: .* holds"),
    "in options": (
        b"name: x\ntrainer: {options: {max_time: '${oc.env:HOME}'}}\n",
        r"trainer.options.max_time: .* holds",
    ),
    "in stage 1": (b"name: x\nstage1: {name: '${oc.env:HOME}'}\n", r"stage1.name: .* holds"),
    "missing": (b"name: ???\n", r"name: '\?\?\?' is not str|name is missing"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_config(kind, tmp_path):
    data, message = FILES[kind]
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(Refusal, match=message) as error:
        config.load(tmp_path / "x.yaml")
    assert (
        "\n" not in str(error.value)
        and "x.yaml" in str(error.value)
        and os.environ["HOME"] not in str(error.value)
    )


VALUES = [
    ("trainer.max_steps=true", "trainer.max_steps: true is not int"),
    ("trainer.max_steps=1e400", "trainer.max_steps: inf is not int|not a finite"),
    ("trainer.max_steps=" + "9" * 25, "trainer.max_steps: a whole number of more than 64 bits"),
    ("trainer.max_steps=[1]", r"trainer.max_steps: \[1\] is not int"),
    ("trainer.max_steps={a: 1}", "trainer.max_steps: .* is not int"),
    ("trainer.max_steps=", "trainer.max_steps: None is not int"),
    ("optim.lr=[1]", r"optim.lr: \[1\] is not float"),
    ("optim.lr=true", "optim.lr: true is not float"),
    ("optim.lr=.inf", "optim.lr: inf is not a finite number"),
    ("optim.weight_decay=inf", "optim.weight_decay: inf is not a finite number"),
    ("optim.clip=.nan", "optim.clip: nan is not a number"),
    ("optim.betas=[0.9]", r"optim.betas: \[0.9\] has 1 values, 2 are needed"),
    ("optim.betas=[0.9, x]", "optim.betas: .* is not"),
    ("optim.ema_more=[.nan]", r"optim.ema_more\[0\]: nan is not a number"),
    ("network.channels=[true]", "network.channels: true is not int"),
    ("network.channels=8", "network.channels: 8 is not"),
    ("seed=1.5", "seed: 1.5 is not int"),
    ("seed=4294967296", r"seed must be at least 0 and below 2\^32"),
    ("seed=true", "seed: true is not int"),
    ("seed=x", "seed: 'x' is not int"),
    ("name=true", "name: true is not str; put it in quotes"),
    ("name=1.50", "name: 1.5 is not a text; put it in quotes"),
    ("name=null", "name: None is not str"),
    ("data.flip=3", "data.flip: 3 is not bool"),
    ("logger.tags=x", "logger.tags: 'x' is not"),
    (
        "trainer.accelerator=cpuu",
        "'cpuu' is not one of auto, cpu, gpu, cuda, mps; did you mean 'cpu'",
    ),
    ("trainer.accelerator=[cpu]", "trainer.accelerator: .* is not str"),
    *(
        (f"trainer.devices={given}", "devices must be auto")
        for given in ("-5", "[]", "[a]", "1.5", "true", "{}", "1,x", "0", "")
    ),
    ("trainer.options=3", "trainer.options: 3 is not dict"),
    ("trainer.options.max_time=3", "trainer.options.max_time: 3 is not str or dict"),
    ("trainer.options.limit_val_batches=true", "limit_val_batches: True is not int or float"),
    ("trainer.options.enable_progress_bar=7", "enable_progress_bar: 7 is not bool"),
    ("trainer.options.plugins=[x]", "no key 'trainer.options.plugins'"),
    ("trainer.options.callbacks=[x]", "no key 'trainer.options.callbacks'"),
    ("trainer.options.logger=false", "set logger.kind instead"),
    ("name=${oc.env:HOME}", r"override name=.*: name: '\$\{oc.env:HOME\}' holds \$\{"),
    ("logger.tags=[a, '${name}']", r"logger.tags\[1\]: .* holds"),
    ("${oc.env:HOME}=1", "holds|is not a key"),
    ("data={name: Digits, '${x}': 1}", "holds"),
    ("..=1", "'..' is not a key"),
    ("=1", "'' is not a key"),
    ("data.hold=[", "not readable as YAML"),
    ("trainer.precision=16-mixed", "'16-mixed' is not one of auto, 32-true, bf16-mixed"),
    ("trainer.options.precision=16-mixed", "set trainer.precision instead"),
    ("data={name: ImageFolder, hold: {half: b}}", "data.hold: .* is not list"),
    ("name=" + "x" * 300, "must be a plain"),
]


@pytest.mark.parametrize("given, message", VALUES, ids=lambda x: str(x)[:40])
def test_values_of_another_kind(given, message):
    with pytest.raises(Refusal, match=message) as error:
        config.load(PIXEL, [given])
    assert "\n" not in str(error.value) and os.environ["HOME"] not in str(error.value)


def test_an_interpolation_inside_a_checkpoint_is_refused(pixel_run, tmp_path, monkeypatch):
    """Wherever a config comes from, nothing of the environment gets into names and files."""
    monkeypatch.setenv("SECRET", "hunter2")
    for key in ("name", "output"):
        state = load(pixel_run / "last.ckpt")
        state["ldm"]["config"][key] = "${oc.env:SECRET}"
        torch.save(state, tmp_path / "x.ckpt")
        with pytest.raises(Refusal, match=rf"x.ckpt: {key}: .* holds") as error:
            restore(tmp_path / "x.ckpt")
        assert "hunter2" not in str(error.value)


def test_captions_may_hold_what_a_config_may_not(tmp_path):
    """Texts of data are no config: `${` in a caption, a class or a file's name is what it is."""
    for i in range(4):
        (tmp_path / "${HOME}").mkdir(exist_ok=True)
        (tmp_path / "b").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 60 * i).save(tmp_path / ("${HOME}" if i % 2 else "b") / f"{i}.png")
    rows = [
        {"file_name": f"{'${HOME}' if i % 2 else 'b'}/{i}.png", "text": f"it costs ${{{i}}}"}
        for i in range(4)
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = config.load(
        PIXEL, [f"data={{name: ImageFolder, root: {tmp_path}, size: 8}}"]
    ).data.load()
    assert images.classes == ("${HOME}", "b") and set(images.train.captions) <= {
        f"it costs ${{{i}}}" for i in range(4)
    }


def test_what_stands_in_a_file_is_what_is_meant(tmp_path):
    (tmp_path / "x.yaml").write_bytes(
        "\ufeffname: 007\r\nseed: 3\r\noptim: {lr: 1e-3}\r\nlogger: {tags: [on, 1:30, 2026-11-26, 0x10, ~]}\r\n".encode()
    )
    run = config.load(tmp_path / "x.yaml")
    assert (run.name, run.seed, run.optim.lr) == ("007", 3, 1e-3)
    assert run.logger.tags == ["on", "1:30", "2026-11-26", "0x10", "~"]
    config.save_config(run, tmp_path / "y.yaml")
    assert config.load(tmp_path / "y.yaml") == run
    (tmp_path / "z.yaml").write_text(
        "name: x\nnetwork: {channels: &c [16, 32], attention: []}\noptim: {ema_more: []}\n"
    )
    assert config.load(tmp_path / "z.yaml").network.channels == (16, 32)


def test_a_value_of_the_command_line_is_a_text_as_it_stands():
    for text in (
        "/my data #1",
        "a: b",
        "@here",
        "*",
        "007",
        "x y",
        "%d",
        "&c",
        "!x",
        "1:30",
        "-",
        "> x",
        "|",
    ):
        run = config.load(PIXEL, [f"logger.project={text}"])
        assert run.logger.project == text
    assert config.load(PIXEL, ["logger.project='1.50'", "name=2026"]).logger.project == "1.50"


def test_empty_and_null_replace(tmp_path):
    """`{}` and null stand for themselves, on the command line and in a child of a base; what is not
    empty is merged.
    """
    (tmp_path / "base.yaml").write_text(
        "name: x\ndata: {name: ImageFolder, hold: [h], skip: {kind: [a], year: [2020]}}\n"
    )
    base = lambda *given: config.load(tmp_path / "base.yaml", given).data
    assert base().skip == {"kind": ["a"], "year": ["2020"]} and base().hold == ["h"]
    assert base("data.skip={}").skip == {} and base("data.skip=null").skip == {}
    assert base("data.hold=null").hold == [] and base("data.hold=[]").hold == []
    assert base("data.skip={}", "data.skip.kind=[b]").skip == {"kind": ["b"]}
    assert base("data.skip.kind=[b]").skip == {"kind": ["b"], "year": ["2020"]}
    assert base("data.skip.kind=null").skip == {"year": ["2020"]}
    (tmp_path / "child.yaml").write_text(
        "base: base.yaml\ndata: {skip: {}, hold: null}\noptim: {}\n"
    )
    child = config.load(tmp_path / "child.yaml")
    assert child.data.skip == {} and child.data.hold == [] and child.optim == config.Optim()
    (tmp_path / "plain.yaml").write_text("base: base.yaml\n")
    assert config.load(tmp_path / "plain.yaml") == config.load(tmp_path / "base.yaml")


def test_home_is_filled_in_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("base: ~/under.yaml\n")
    (tmp_path / "under.yaml").write_text(
        "name: x\nspace: {name: Latents, autoencoder: ~/run}\noutput: ~/out\n"
    )
    run = config.load(
        "~/mine.yaml",
        [
            "data={name: MNIST, root: ~/d}",
            "evaluate.features=~/f",
            "text={name: CLIPText, model: ~}",
        ],
    )
    given = run.output, run.data.root, run.space.autoencoder, run.evaluate.features, run.text.model
    assert given == (*(f"{tmp_path}/{name}" for name in ("out", "d", "run", "f")), str(tmp_path))
    assert config.load("~/mine.yaml", ["data=MNIST", "data.root=~"]).data.root == str(tmp_path)


@pytest.mark.parametrize("script", ["sample", "evaluate"])
def test_home_is_filled_in_behind_the_flags(script, monkeypatch):
    """--checkpoint=~/x: the shell leaves the ~ as it is. Every flag that takes a path is asked."""
    monkeypatch.setenv("HOME", "/elsewhere")
    program = importlib.import_module(f"ldm.scripts.{script}")
    usage = subprocess.run(
        [sys.executable, ROOT / f"{script}.py", "--help"], capture_output=True, text=True
    ).stdout
    flags = sorted(set(re.findall(r"(--[a-z-]+) (?:[A-Z]+\|)?(?:PATH|DIR|FILE)", usage)))
    assert len(flags) >= 4 and "--checkpoint" in flags
    monkeypatch.setattr(sys, "argv", [script, "--checkpoint=x", *(f"{flag}=~/x" for flag in flags)])
    given = vars(program.parse())
    for flag in flags:
        value = given[flag[2:].replace("-", "_")]
        assert value in ("/elsewhere/x", ["/elsewhere/x"]), flag


def test_a_name_that_is_not_there_looks_at_its_own_folder_alone(tmp_path, monkeypatch):
    """A wrong `base:` or --config walked whole trees, a home folder or a disk, for a near name."""
    (tmp_path / "deep").mkdir()
    for path in (tmp_path / "near.yaml", tmp_path / "deep" / "base.yaml"):
        path.write_text("name: x")
    (tmp_path / "x.yaml").write_text("base: neer.yaml")
    walked = []
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: walked.append(self) or iter(()))
    with pytest.raises(Refusal, match=r"base: no file '.*neer.yaml'; did you mean '.*/near.yaml'"):
        config.load(tmp_path / "x.yaml")
    with pytest.raises(Refusal, match=r"no file '.*neer.yaml'; did you mean '.*/near.yaml'"):
        config.load(tmp_path / "neer.yaml")
    with pytest.raises(Refusal, match=r"is a folder; name a file in it \(.*near.yaml, .*x.yaml\)"):
        config.load(tmp_path)
    assert all(path in config.SHIPPED for path in walked)


def test_endless_is_kept_where_a_setting_has_it_by_default():
    run = config.load(PIXEL, ["sample.solver=EDMStochastic"])
    assert config.from_dict(schema.to_dict(run)) == run
