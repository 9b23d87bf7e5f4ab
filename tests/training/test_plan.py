"""What is known before the first step: whose data a stage 1 and a resumed run are of, both stages'
settings and mistakes.
"""

import json
import os
import shutil
from datetime import datetime

import pytest
import torch
from helpers import TINY, load, overrides, run_config
from PIL import Image

from ldm import config
from ldm.errors import Refusal
from ldm.pictures.space import LatentSpace
from ldm.system.progress import span
from ldm.training.arithmetic import activations, hours_on_h100, once_in_shapes, work
from ldm.training.estimate import describe_time
from ldm.training.plan import make_plan
from ldm.training.run import train_run

SHORT = ("trainer.max_steps=2", "trainer.validate=2", "trainer.save=2", "sample.every=0")


def folder_of(root, classes=("a", "b"), each=6, seed=0, captions=None):
    """Small pictures in folders that are classes; patterns, so that an autoencoder has something to
    learn.
    """
    for i in range(each * len(classes)):
        path = root / classes[i % len(classes)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 40 + 20 * seed).save(path)
    if captions:
        rows = [
            {"file_name": f"{classes[i % len(classes)]}/{i}.png", "text": captions}
            for i in range(each * len(classes))
        ]
        (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def on(root, *more):
    return f"data={{name: ImageFolder, root: {root}, size: 8, batch_size: 4}}", *more


@pytest.fixture
def easy(monkeypatch):
    """Two steps make no stage 1 that the hand-off accepts: what it says of quality is not what is
    tested here.
    """
    monkeypatch.setattr(LatentSpace, "verify", lambda self, data, all_reduce: [])


@pytest.fixture
def both(tmp_path):
    """A latent config of two steps for a folder of pictures, its stage 1 of three beside it;
    overrides to come.
    """
    short = "trainer: {max_steps: 3, validate: 3, save: 3}\n"
    text = (
        (TINY / "autoencoder.yaml")
        .read_text()
        .split("trainer:")[0]
        .replace("name: Digits", "name: ImageFolder, size: 8")
    )
    (tmp_path / "autoencoder.yaml").write_text(text + short)
    (tmp_path / "pixel.yaml").write_text((TINY / "pixel.yaml").read_text())
    (tmp_path / "latent.yaml").write_text((TINY / "latent.yaml").read_text())
    given = (*overrides("latent", tmp_path / "out"), *SHORT)
    return lambda root, *more: config.load(tmp_path / "latent.yaml", [*given, *on(root), *more])


# -- whose data a stage 1 is of --------------------------------------------------------------------
@pytest.mark.slow
def test_a_stage_1_of_other_data_is_refused_and_another_name_trains_its_own(both, easy, tmp_path):
    a, b = folder_of(tmp_path / "a"), folder_of(tmp_path / "b", seed=1)
    train_run(both(a))
    first = load(tmp_path / "out/tiny-autoencoder/last.ckpt")
    with pytest.raises(
        Refusal, match=r"is of other data than ImageFolder in '.*b': .*name=OTHER trains another"
    ) as error:
        train_run(both(b, "name=tiny-2-latent", "stage1.name=tiny-autoencoder"))
    assert "\n" not in str(error.value) and not (tmp_path / "out/tiny-2-latent").exists()
    train_run(both(b, "name=other"))
    own = load(tmp_path / "out/other-autoencoder/last.ckpt")["ldm"]
    assert own["data"]["content"] != first["ldm"]["data"]["content"]
    assert (
        load(tmp_path / "out/other/last.ckpt")["ldm"]["data"]["content"] == own["data"]["content"]
    )


@pytest.mark.slow
def test_runs_on_the_same_data_share_one_stage_1(both, easy, tmp_path, capsys):
    """Wherever the folder lies by then, and whatever the times of its files."""
    a = folder_of(tmp_path / "a")
    train_run(both(a))
    moved = shutil.move(a, tmp_path / "elsewhere")
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))
    capsys.readouterr()
    train_run(both(moved, "name=other"))
    assert (
        "tiny-autoencoder/, finished" in capsys.readouterr().out
        and not (tmp_path / "out/other-autoencoder").exists()
    )
    train_run(both(moved, "name=third", "stage1.optim.warmup=1"))  # not what lies there: its own
    assert (tmp_path / "out/third-autoencoder/last.ckpt").exists()


def test_what_lies_under_the_configs_own_name_is_no_concern_if_it_is_damaged(
    both, tmp_path, capsys
):
    (tmp_path / "out/tiny-autoencoder").mkdir(parents=True)
    (tmp_path / "out/tiny-autoencoder/last.ckpt").write_bytes(b"torn")
    run = both(folder_of(tmp_path / "a"), "name=other")
    train_run(run, dry_run=True)
    assert "other-autoencoder/" in capsys.readouterr().out
    text = (
        (tmp_path / "autoencoder.yaml").read_text().replace("name: tiny-autoencoder", "name: ../x")
    )
    (tmp_path / "autoencoder.yaml").write_text(text)
    train_run(run, dry_run=True)
    assert "other-autoencoder/" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stage_1_named_on_purpose_may_be_of_other_data_and_that_is_said(
    both, easy, tmp_path, capsys
):
    a, b = folder_of(tmp_path / "a"), folder_of(tmp_path / "b", ("x", "y"), seed=1)
    train_run(both(a))
    capsys.readouterr()
    train_run(both(b, "name=other", f"space.autoencoder={tmp_path}/out/tiny-autoencoder"))
    assert (
        "its classes were a, b; these data have x, y; used, as space.autoencoder names it"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_stage_1_is_named_after_the_run():
    names = {
        "digits-latent": "digits-autoencoder",
        "emoji-latent-cpu": "emoji-autoencoder-cpu",
        "mine": "mine-autoencoder",
    }
    assert all(config.name_after(name) == stage1 for name, stage1 in names.items())
    for path in (TINY.parent.parent / "configs").glob("*/*.yaml"):
        run = config.load(path)
        if "latent" in run.name and config.named_by_config(run):
            assert (
                config.stage1_of(run).name == config.stage1_file(run)["name"]
            )  # shipped pairs keep their folders


# -- resuming on other data ------------------------------------------------------------------------
def half(root, out, *more):
    return run_config(
        "pixel", out, *on(root), "trainer.validate=2", "trainer.save=2", "sample.every=0", *more
    )


@pytest.mark.slow
def test_resume_wants_the_data_it_began_with(tmp_path):
    a, b = folder_of(tmp_path / "a"), folder_of(tmp_path / "b", seed=1)
    train_run(half(a, tmp_path, "trainer.max_steps=2"))
    before = (tmp_path / "tiny-pixel/last.ckpt").read_bytes()
    with pytest.raises(Refusal, match=r"--resume: .*is of other data than ImageFolder in '.*b'"):
        train_run(half(b, tmp_path, "trainer.max_steps=4"), resume=True)
    assert (tmp_path / "tiny-pixel/last.ckpt").read_bytes() == before
    train_run(
        half(shutil.copytree(a, tmp_path / "copy"), tmp_path, "trainer.max_steps=4"), resume=True
    )
    assert load(tmp_path / "tiny-pixel/last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_resume_names_both_lists_of_classes(change, tmp_path):
    root = folder_of(tmp_path / "a", ("b", "c", "d"))
    train_run(half(root, tmp_path, "trainer.max_steps=2"))
    if change == "added":
        folder_of(root, ("a",))
    elif change == "removed":
        shutil.rmtree(root / "c")
    else:
        (root / "d").rename(root / "a")
    now = ", ".join(sorted(path.name for path in root.iterdir()))
    with pytest.raises(Refusal, match=rf"its classes were b, c, d; these data have {now};"):
        train_run(half(root, tmp_path, "trainer.max_steps=4"), resume=True)


def test_resume_notices_labels_that_changed_places(tmp_path):
    """The same pictures and the same classes, but the column says otherwise."""
    root = folder_of(tmp_path / "a")
    say = lambda flip: [
        {"file_name": p.relative_to(root).as_posix(), "kind": "ab"[(i + flip) % 2]}
        for i, p in enumerate(sorted(root.rglob("*.png")))
    ]
    write = lambda flip: (root / "metadata.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in say(flip))
    )
    write(0)
    train_run(half(root, tmp_path, "data.label=kind", "trainer.max_steps=2"))
    write(1)
    with pytest.raises(Refusal, match="the labels of its data were others"):
        train_run(half(root, tmp_path, "data.label=kind", "trainer.max_steps=4"), resume=True)


# -- both stages' settings -------------------------------------------------------------------------
def test_overrides_reach_stage_1(both, tmp_path, capsys):
    run = both(
        folder_of(tmp_path / "a"),
        "stage1.trainer.max_steps=7",
        "stage1.data.batch_size=3",
        "trainer.max_steps=5",
    )
    stage1 = config.stage1_of(run)
    assert (
        stage1.trainer.max_steps == 7 and stage1.data.batch_size == 3 and run.trainer.max_steps == 5
    )
    assert stage1.data.root == run.data.root and stage1.network.channels == (8, 16)
    train_run(run, dry_run=True)
    said = capsys.readouterr().out
    for line in (
        "stage      1 of 2",
        "7 steps",
        "stage      2 of 2",
        "5 steps",
        "tiny-autoencoder/",
        "tiny-latent/",
    ):
        assert line in said
    assert (
        said.count("parameters; ") == said.count("batch      ") == 2
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    "given, message",
    [
        ("stage1.optm.lr=1", r"stage 1, .*autoencoder.yaml: no key 'optm'; did you mean 'optim'"),
        ("stage1.optim.lr=-1", r"stage 1, .*: optim: lr must be above 0"),
        ("stage1.output=x", r"stage1.output: both stages have one; set output"),
        ("stage1.logger.kind=csv", r"stage1.logger: both stages have one; set logger"),
        ("stage1.data.root=x", r"stage1.data.root: both stages have the same data; set data.root"),
        ("stage1.stage=diffusion", r"stage1.stage: it is autoencoder"),
        ("stage1=3", r"stage1: 3 is not dict"),
    ],
)
def test_what_stage_1_cannot_be_told(given, message, both, tmp_path):
    with pytest.raises(Refusal, match=message):
        both(tmp_path, given)


def test_a_run_without_a_stage_1_takes_nothing_for_it(tmp_path):
    for kind in ("pixel", "latent"):
        more = [
            "stage1.trainer.max_steps=2",
            f"space={'Pixels' if kind == 'pixel' else '{name: Latents, autoencoder: x}'}",
        ]
        with pytest.raises(Refusal, match=r"stage1.trainer: no stage 1 is trained here"):
            run_config(kind, tmp_path, *more)


# -- mistakes of stage 2, before stage 1's first step ----------------------------------------------
@pytest.mark.parametrize(
    "given, message",
    [
        (
            ["network.attention=[5]"],
            r"network.attention: \[5\] is not among this network's resolutions \[4, 2\]",
        ),
        (["condition=text"], r"the data has no captions"),
        (["evaluate={every: 1, features: fashon}"], r"'fashon' is neither a file nor one of"),
        (["evaluate={every: 1, count: 1}"], r"too few"),
        (
            ["sample.solver={name: Diffusers}", "schedule=VE"],
            r"sample: Diffusers' schedulers need a variance-preserving",
        ),
        (["trainer.strategy=ddp_static_graph"], r"trainer: Lightning refuses"),
        (["trainer.options.max_time=soon"], r"trainer"),
        (
            ["network.channels=[8, 8, 8, 8]", "network.attention=[]", "stage1.perceptual.weight=1"],
            r"network: tiny-autoencoder|LPIPS",
        ),
        (["output=/dev/null"], r"output: '/dev/null' is a file"),
        (["task={name: SuperResolve, factor: 3}"], r"task.factor: 3 does not divide"),
        (
            ["stage1.evaluate={every: 1, features: fashon}"],
            r"'fashon' is neither a file nor one of",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "real"])
def test_mistakes_of_both_stages_are_found_before_the_first_step(
    given, message, dry, both, tmp_path
):
    root = folder_of(tmp_path / "a")
    with pytest.raises(Refusal, match=message) as error:
        train_run(both(root, *given), dry_run=dry)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


# -- how long it will take -------------------------------------------------------------------------
def test_the_time_left_is_of_both_stages(both, easy, tmp_path, capsys):
    """Said once in each stage; in the first with what the second's work is worth, by its
    operations.
    """
    run = both(folder_of(tmp_path / "a"), "stage1.trainer.max_steps=12", "trainer.max_steps=8")
    legs = make_plan(run, False, True, print)
    assert legs[1].worth([]) == {}
    steps = legs[0].worth(legs[1:])["tiny-latent"]
    assert (
        steps == pytest.approx(8 * work(legs[1].module) / work(legs[0].module)) and 0.1 < steps < 80
    )
    longer = both(
        run.data.root, "stage1.trainer.max_steps=12", "trainer.max_steps=16", "data.batch_size=8"
    )
    assert legs[0].worth(make_plan(longer, False, True, print)[1:])["tiny-latent"] == pytest.approx(
        4 * steps
    )
    train_run(run)
    first, second = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("time       ")
    ]
    assert "for tiny-latent after it" in first and "in all" in first and "after it" not in second


def test_operations_of_a_step_are_counted():
    """Of a network whose count is known: a convolution of 3 x 3, forward and twice that backward,
    over the batch.
    """
    stage = of_convolution("data.batch_size=7", "trainer.accumulate=2")
    assert work(stage) == 3 * 14 * 2 * (2 * 5 * 9 * 64)
    assert hours_on_h100(0.4 * 989e12, 7200) == pytest.approx(2)
    assert stage.conv.weight.device.type == "cpu" and stage.conv.weight.grad is None


def test_activations_of_a_step_are_counted():
    """What the backward pass of conv, conv keeps, in float32: the answer of each, and the input."""
    stage = of_convolution("data.batch_size=7", layers=2)
    assert activations(stage) == 7 * 4 * (2 + 2 + 2) * 64
    with torch.no_grad():
        (answer,) = once_in_shapes(stage)
    assert answer.is_meta and answer.shape == (1, 2, 8, 8)


def test_the_configs_for_256_pixels_are_as_large_as_docs_scale_says():
    from ldm.networks.autoencoder import AutoencoderKL

    folder, counts = TINY.parent.parent / "configs/folder", []
    for name, shape in (("autoencoder-256", (3, 256, 256)), ("latent-256", (4, 32, 32))):
        run = config.load(folder / f"{name}.yaml")
        with torch.device("meta"):
            net = run.network.build(shape, *[2] * name.startswith("latent"))  # of two classes
        counts.append(sum(p.numel() for p in net.parameters()) / 1e6)
    assert counts == pytest.approx([83.65, 357.93], abs=0.005) and 270 < counts[1] < 400
    stage1 = config.stage1_of(run)
    assert isinstance(stage1.network, AutoencoderKL) and len(stage1.network.channels) == 4
    assert stage1.adversarial and stage1.perceptual.weight > 0
    said = (TINY.parent.parent / "docs/scale.md").read_text()
    assert all(f"{count:.2f} M" in said for count in counts)


def of_convolution(*given, layers=1):
    """A stage whose network is known."""
    from ldm.training.stage import Stage

    class Known(Stage):
        trained, few = "conv", 1

        def once(self):
            x = self.conv.weight.new_zeros(1, 2, 8, 8)
            return [torch.nn.Sequential(*[self.conv] * layers)(x)]

    stage = Known(run_config("pixel", "x", *given), (2, 8, 8), ())
    stage.conv = torch.nn.Conv2d(2, 5 if layers == 1 else 2, 3, padding=1)
    return stage


def test_the_estimate_in_words():
    now = datetime(2026, 11, 26, 12)
    said = describe_time(0.5, 7200, {"b": 3600.0}, now)
    assert said.split("step: ")[1].startswith(
        "about 60 min for the 7200 steps left, 30 min for b after it"
    )
    assert "90 min in all" not in said and "1 h 30 min in all, to Thu 26 Nov 13:30" in said
    assert [span(s) for s in (40, 89, 720, 12000, 187200)] == [
        "40 s",
        "89 s",
        "12 min",
        "3 h 20 min",
        "2 d 4 h",
    ]
