"""Configuration: typos, inheritance, round trips, and every config that is shipped."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from ldm import config, schema
from ldm.diffusion.schedules import Cosine, Discrete
from ldm.diffusion.solvers import DDIM, DPMpp2M
from ldm.errors import Refusal
from ldm.spaces import Latents, Pixels

SHIPPED = sorted(ROOT.glob("configs/**/*.yaml"))
PIXEL = ROOT / "configs/digits/pixel.yaml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_loads_and_round_trips(path):
    run = config.load(path)
    assert config.from_dict(schema.to_dict(run)) == run


def test_base_and_overrides():
    run = config.load(PIXEL, ["schedule.name=Cosine", "sample.solver={name: DDIM, eta: 0.5}", "trainer.max_steps=7"])
    assert isinstance(run.space, Pixels) and run.schedule == Cosine() and run.sample.solver == DDIM(0.5)
    assert run.trainer.max_steps == 7 and run.network.channels == (32, 64)
    run = config.load(PIXEL, ["schedule=Discrete", "schedule.steps=50"])
    assert run.schedule == Discrete(steps=50) and run.sample.solver == DPMpp2M()


def test_stage_1_is_found_beside_the_config_that_names_it():
    run = config.load(ROOT / "configs/digits/latent.yaml")
    assert isinstance(run.space, Latents) and Path(run.space.autoencoder) == ROOT / "configs/digits/autoencoder.yaml"


def test_saved_config_is_the_config(tmp_path):
    run = config.load(PIXEL)
    config.save(run, tmp_path / "c.yaml")
    assert config.load(tmp_path / "c.yaml") == run


TYPOS = [
    (["trainer.max_stpes=3"], r"no key 'trainer.max_stpes'; did you mean 'max_steps'\?"),
    (["sampel.steps=3"], r"no key 'sampel'; did you mean 'sample'\?"),
    (["sample.solver.etta=1"], r"no key 'sample.solver.etta'"),
    (
        ["schedule.name=Cosin"],
        r"schedule.name: 'Cosin' is not one of VP, SubVP, Cosine, VE, Linear, Discrete; did you mean 'Cosine'\?",
    ),
    (["sample.solver=DPM"], r"sample.solver.name: 'DPM' is not one of DDPM, DDIM, .*Diffusers; did you mean"),
    (["data.name=Digit"], r"data.name: 'Digit' is not one of .*; did you mean 'Digits'\?"),
    (["loss.predict=vv"], r"loss.predict: 'vv' is not one of eps, x0, v, edm"),
    (["loss.times=LogNormall"], r"loss.times.name: 'LogNormall' is not one of Uniform, .*; did you mean 'LogNormal'\?"),
    (["loss.times={name: LogNormal, std: 0}"], r"loss.times: LogNormal needs std above 0"),
    (["loss.times=Importance", "schedule=Discrete"], r"Importance needs a schedule of continuous time"),
    (["loss.predict=score", "schedule=Linear"], r"Linear has alpha_1 = 0, where score says nothing"),
    (["sample.grid=leading"], r"sample.grid=leading is of a table of times: schedule Discrete"),
    (["stage=difusion"], r"stage: 'difusion' is not one of autoencoder, diffusion; did you mean 'diffusion'\?"),
    (["trainer.max_steps=many"], r"trainer.max_steps: 'many' is not int"),
    (["trainer.max_steps=1.5"], r"trainer.max_steps: 1.5 is not int"),
    (["network.channels=[8,x]"], r"network.channels: \[8, 'x'\] is not tuple\[int, ...\]"),
    (["network.channels=[12]"], r"network: channels \(12,\) must be multiples"),
    (["sample.solver={name: DDIM, eta: 2}"], r"sample.solver: DDIM needs eta in \[0, 1\]"),
    (["data.batch_size=0"], r"data: batch_size must be at least 1"),
    (["optim=3"], r"optim: expected name: and settings, got 3"),
    (["space.name=Latents"], r"space.autoencoder is missing"),
    (["trainer.options.gradient_clip_val=1"], r"set optim.clip instead"),
    (["trainer.options.limit_val_batchs=1"], r"no key 'trainer.options.limit_val_batchs'; did you mean 'limit_val_batches'"),
    (["trainer.max_steps"], r"'trainer.max_steps' is not an override; write key=value"),
    (["trainer.max_steps=0"], r"trainer: max_steps must be at least 1, got 0"),
    (["trainer.devices=0"], r"trainer: devices must be auto, a number"),
    (["trainer.devices=foo"], r"trainer: devices must be auto, a number"),
    (["trainer.precision=bf16-true"], r"'bf16-true' is not one of auto, 32-true, bf16-mixed"),
    (["trainer.accumulate=0"], r"accumulate must be at least 1"),
    (["sample.steps=0"], r"sample: steps must be at least 1"),
    (["sample.count=-1"], r"sample: count must be at least 1"),
    (["optim.lr=-1"], r"optim: lr must be above 0"),
    (["optim.lr=nan"], r"optim: lr must be above 0"),
    (["optim.ema=1.5"], r"optim: ema must be in \[0, 1\)"),
    (["network.layers=0"], r"network: layers, head_dim and norm_groups must be at least 1"),
    (["network.norm_groups=0"], r"network: layers, head_dim and norm_groups must be at least 1"),
    (["schedule={name: Discrete, zero_snr: true}", "loss.predict=eps"], r"zero_snr has alpha_1 = 0"),
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
    for text in ("os.system", "ldm.config.load", "__import__", "torch.optim.SGD"):
        with pytest.raises(Refusal, match="is not one of"):
            config.load(PIXEL, [f"schedule.name={text}"])


def test_a_config_is_read_without_the_slow_packages():
    """diffusers is imported where a network is built, Lightning where one trains: a typo is answered in the time of torch."""
    slow = ["diffusers", "lightning", "transformers", "torchvision", "scipy", "wandb", "sklearn", "torchmetrics"]
    program = f"""
import sys
from ldm import config
from ldm.errors import Refusal
try:
    config.load("configs/digits/latent.yaml", ["optm.lr=1"])
except Refusal as error:
    print(error, [name for name in {slow} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "did you mean 'optim'" in done.stdout and done.stdout.strip().endswith("[]"), done
