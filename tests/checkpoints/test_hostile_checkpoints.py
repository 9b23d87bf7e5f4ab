"""Checkpoints that a stranger made: each is refused in one line, in little time and memory, and
nothing is written.
"""

import copy
import functools
import pickle
import shutil
import time
import zipfile

import pytest
import torch
from helpers import TINY, here, load, overrides, run_config

from ldm.checkpoints import checkpoint
from ldm.checkpoints.safe import tensors_in
from ldm.errors import Refusal
from ldm.sampling.model import load_autoencoder, recorded_data, restore
from ldm.training.diffusion import DiffusionModule
from ldm.training.run import train_run
from ldm.training.state import expect_state
from ldm.training.trainer import check_trainer


@pytest.fixture(scope="module")
def states(pixel_run, latent_run, stage1, jets_run, two_types):
    runs = {"pixel": pixel_run, "latent": latent_run, "stage1": stage1, "jets": jets_run}
    runs |= {"types": two_types[0]}
    unused = (
        "optimizer_states",
        "loops",
        "callbacks",
        "lr_schedulers",
    )  # by whoever samples: so the cases are fast
    loaded = {kind: load(run / "last.ckpt") for kind, run in runs.items()}
    return {
        kind: {key: value for key, value in state.items() if key not in unused}
        for kind, state in loaded.items()
    }


def put(*path, value):
    """Something else, or something new, at a place of a checkpoint."""

    def change(state):
        inside = functools.reduce(lambda at, key: at[key], path[:-1], state)
        inside[path[-1]] = value(inside[path[-1]]) if callable(value) else value

    change.__name__ = (
        ".".join(map(str, path)) + "=" + ("made" if callable(value) else repr(value)[:40])
    )
    return change


def drop(*path):
    def change(state):
        functools.reduce(lambda at, key: at[key], path[:-1], state).pop(path[-1])

    change.__name__ = "no " + ".".join(map(str, path))
    return change


def every(make):
    """All weights made another way, the averaged ones too."""

    def change(state):
        held = [
            state["state_dict"],
            *([state["ldm"]["ema"]["weights"]] if state["ldm"]["ema"] else []),
        ]
        for weights in held:
            for key, value in weights.items():
                if value.is_floating_point():
                    weights[key] = make(value)

    change.__name__ = make.__name__
    return change


def cyclic(state):
    state["ldm"]["config"]["data"] = state["ldm"]["config"]


def billion_laughs(state):
    joke = ["ha"]
    for _ in range(12):
        joke = [joke] * 10
    state["ldm"]["config"]["name"] = joke


def deep(state):
    nested = []
    for _ in range(400):
        nested = [nested]
    state["ldm"]["classes"] = nested


def sparse(w):
    return w.to_sparse()


def meta(w):
    return w.to("meta")


def quantised(w):
    return torch.quantize_per_tensor(w.detach().float(), 0.1, 0, torch.qint8)


def whole_numbers(w):
    return w.long()


def not_numbers(w):
    return w * float("nan")


def endless(w):
    return w + float("inf")


def one_number(w):
    return torch.zeros(()).expand(w.shape)


def imaginary(w):
    return w + 0j


def text(w):
    return "weights"


def lists(w):
    return w.tolist()


def scalars(w):
    return w.sum()


WIDE = [8192, 8192]
META = [
    ("ldm", "version"),
    ("ldm", "stage"),
    ("ldm", "config"),
    ("ldm", "shape"),
    ("ldm", "classes"),
    ("ldm", "trained"),
]
META += [("ldm",), ("state_dict",), ("global_step",), ("ldm", "config", "name")]
OTHERS = [None, "x", -1, 2.5, [], {}, float("nan"), 10**30, True]
CHANGES = [drop(*path) for path in META]
CHANGES += [
    put(*path, value=value)
    for path in META[:3]
    for value in OTHERS
    if (path, value) != (META[0], True)
]
CHANGES += [
    put("ldm", "shape", value=v)
    for v in (["1", "8", "8"], [1, 8], [-1, 8, 8], [1, 8, 8, 8], [0, 8, 8], [1.0, 8, 8])
]
CHANGES += [
    put("ldm", "shape", value=v)
    for v in ([1, 10**9, 10**9], [1, 4096, 4096], [2, 8, 8], [None] * 3, [10**9, 8, 8])
]
CHANGES += [
    put("ldm", "classes", value=v)
    for v in ([1, 2], [None] * 10, ["a"] * 10, ["a", "b"], [["a"]] * 10, ["x"] * 10**6)
]
CHANGES += [put("ldm", "ema", value=v) for v in ([1], {"weights": 1}, {"decay": 0.9})]
CHANGES += [
    put("ldm", "autoencoder", value=v) for v in ({"config": {}}, {"config": 1, "hash": 2}, [1])
]
CHANGES += [put("global_step", value=v) for v in (-1, "8", None, 2.5, torch.tensor(8))]
CHANGES += [
    put("ldm", "config", "network", "channels", value=v)
    for v in (WIDE, [8], ["8", "x"], [0, 0], [], [8] * 60, None)
]
CHANGES += [
    put("ldm", "config", "network", "layers", value=v) for v in (10**6, 0, -1, "many", None, 2)
]
CHANGES += [
    put("ldm", "config", "network", "name", value=v)
    for v in ("os.system", "SetTransformer", "", None, 3)
]
CHANGES += [
    put("ldm", "config", "schedule", value=v)
    for v in ("Nope", {"name": "VP", "beta_min": "x"}, 3, {"name": "Discrete", "steps": 10**10})
]
CHANGES += [put("ldm", "config", "sample", "steps", value=v) for v in (0, 10**12, "x")]
CHANGES += [put("ldm", "config", "sample", "batch_size", value=v) for v in (0, 10**12)]
CHANGES += [
    put("ldm", "config", "sample", "guidance", value=v) for v in (float("nan"), float("inf"), "x")
]
CHANGES += [put("ldm", "config", "condition", value=v) for v in ("text", "both", 3)]
CHANGES += [
    put("ldm", "config", "name", value=v)
    for v in ("../../up", "/etc", "", "\x1b[2J", ["a"], "a\0b")
]
CHANGES += [
    put("ldm", "config", "data", value=v)
    for v in ("Nope", [], 7, {"name": "ImageFolder", "size": "x"}, {"name": "JetNet"})
]
CHANGES += [put("ldm", "config", "typo", value=1), cyclic, billion_laughs, deep]
MAKE = (
    sparse,
    meta,
    not_numbers,
    endless,
    one_number,
    imaginary,
    whole_numbers,
    text,
    lists,
    scalars,
)
CHANGES += [every(make) for make in MAKE]


def write(state, path):
    torch.save(state, path)
    return path


def refused(function, *args):
    """Its one line, soon; the memory is measured by the cases that claim much."""
    begun = time.monotonic()
    with pytest.raises(Refusal) as error:
        function(*args)
    line = str(error.value)
    assert "\n" not in line and 0 < len(line) < 1500 and time.monotonic() - begun < 20, line[:2000]
    return line


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_checkpoint_is_one_line(change, states, tmp_path):
    state = copy.copy(states["pixel"])
    state = {**state, "ldm": copy.deepcopy(state["ldm"]), "state_dict": dict(state["state_dict"])}
    change(state)
    refused(restore, write(state, tmp_path / "last.ckpt"))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


SPECIAL = [
    ("latent", put("state_dict", "space.std", value=torch.zeros_like)),
    ("latent", put("state_dict", "space.std", value=torch.neg)),
    ("latent", put("state_dict", "space.mean", value=lambda w: w * float("nan"))),
    ("latent", put("state_dict", "space.mean", value=lambda w: w[:1])),
    ("latent", put("ldm", "autoencoder", "hash", value="0" * 16)),
    ("latent", put("ldm", "autoencoder", value=None)),
    ("latent", put("ldm", "autoencoder", "config", "network", "channels", value=WIDE)),
    ("latent", put("ldm", "autoencoder", "config", "network", "multiple", value=10**9)),
    ("latent", put("ldm", "autoencoder", "config", "network", "layers", value=10**7)),
    ("jets", put("state_dict", "space.scale", value=torch.zeros_like)),
    ("jets", put("state_dict", "space.numbers", value=lambda w: w * float("nan"))),
    ("jets", put("state_dict", "space.numbers", value=lambda w: -1 - w)),
    ("jets", put("state_dict", "space.numbers", value=torch.zeros_like)),
    ("types", put("state_dict", "space.joint", value=lambda w: w * float("nan"))),
    ("types", put("state_dict", "space.joint", value=lambda w: w + 0.5)),
    ("types", put("state_dict", "space.joint", value=lambda w: w * 1e4)),
    ("types", put("state_dict", "space.joint", value=lambda w: w[:, :7])),
    ("types", put("state_dict", "space.jet_scale", value=lambda w: w * 1e9)),
    ("jets", put("ldm", "shape", value=[10**9, 3])),
    ("jets", put("ldm", "shape", value=[31, 3])),
    ("jets", put("ldm", "config", "network", "dim", value=2**20)),
    ("jets", put("ldm", "config", "network", "layers", value=10**8)),
    ("jets", put("ldm", "config", "data", "constituents", value=10**6)),
]


@pytest.mark.parametrize(
    "kind, change", SPECIAL, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_changed_latents_and_jets_are_one_line(kind, change, states, tmp_path):
    state = {
        **states[kind],
        "ldm": copy.deepcopy(states[kind]["ldm"]),
        "state_dict": dict(states[kind]["state_dict"]),
    }
    change(state)
    refused(restore, write(state, tmp_path / "last.ckpt"))


@pytest.mark.parametrize(
    "change",
    [c for c in CHANGES if "network" in c.__name__ or "shape" in c.__name__ or c in CHANGES[-12:]],
)
def test_a_changed_stage_1_is_one_line(change, states, tmp_path):
    state = states["stage1"]
    state = {**state, "ldm": copy.deepcopy(state["ldm"]), "state_dict": dict(state["state_dict"])}
    change(state)
    refused(load_autoencoder, write(state, tmp_path / "last.ckpt"))


def test_what_is_not_changed_is_read(states, tmp_path):
    for kind in ("pixel", "latent", "jets", "types"):
        assert restore(write(states[kind], tmp_path / f"{kind}.ckpt")).step > 0


# -- the file itself -------------------------------------------------------------------------------
def rezip(source, target, compression=zipfile.ZIP_STORED, more=(), change=lambda name, data: data):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
        for name, data in more:
            new.writestr(name, data)
    return target


def test_compressed_records_are_refused(states, tmp_path):
    """1 MB of a file that would be 1 GB of memory."""
    path = write(states["pixel"], tmp_path / "a.ckpt")
    assert "compressed" in refused(
        checkpoint.read_checkpoint, rezip(path, tmp_path / "b.ckpt", zipfile.ZIP_DEFLATED)
    )
    assert "compressed" in refused(
        checkpoint.read_checkpoint, rezip(path, tmp_path / "c.ckpt", zipfile.ZIP_LZMA)
    )


def bomb(code, tmp_path):
    """A checkpoint whose pickle is this code."""
    path, raw = tmp_path / "a.ckpt", write({"a": torch.zeros(2)}, tmp_path / "plain.ckpt")
    return rezip(raw, path, change=lambda name, data: code if name.endswith("data.pkl") else data)


class Call:
    def __init__(self, function, *args):
        self.how = function, args

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    "what",
    [
        Call(bytearray, 10**12),
        Call(torch.Tensor, 10**7),
        Call(print, "x"),
        Call(eval, "1"),
        Call(set, "x"),
        Call(complex, 1),
    ],
    ids=lambda call: call.how[0].__name__,
)
def test_a_pickle_that_calls_anything_is_not_opened(what, tmp_path, capsys):
    assert "not opened" in refused(
        checkpoint.read_checkpoint, bomb(pickle.dumps({"ldm": what}, 2), tmp_path)
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "code", [b"", b"\x80\x02", b"garbage", b"\x80\x02}", b"\x80\x02X\xff\xff\xff\x7fabc.", b"."]
)
def test_a_pickle_that_is_cut_is_one_line(code, tmp_path):
    refused(checkpoint.read_checkpoint, bomb(code, tmp_path))


@pytest.mark.parametrize("size", [0, 1, 100, 5_000])
def test_a_file_that_is_cut_is_one_line(size, states, tmp_path):
    path = write(states["pixel"], tmp_path / "last.ckpt")
    path.write_bytes(path.read_bytes()[:size])
    refused(restore, path)


def test_weights_that_share_their_numbers_claim_no_more_than_the_file(states, tmp_path):
    """The same megabyte under a thousand names."""
    block = torch.zeros(250_000)
    state = {**states["pixel"], "state_dict": {f"net.{i}": block for i in range(1000)}}
    assert "claim" in refused(checkpoint.read_checkpoint, write(state, tmp_path / "last.ckpt"))


@pytest.mark.parametrize("keep", [["global_step"], ["global_step", "ldm", "state_dict"]])
def test_newest_whole_survives_steps_that_are_no_numbers(keep, states, tmp_path):
    write(
        {key: states["pixel"][key] for key in keep} | {"global_step": "soon"},
        tmp_path / "last.ckpt",
    )
    write(states["pixel"], tmp_path / "best.ckpt")
    path, _, complaints = checkpoint.newest_whole(tmp_path)
    assert path.name == "best.ckpt" and len(complaints) == 1


RESUMED = [
    drop("loops"),
    drop("optimizer_states"),
    drop("callbacks"),
    drop("lr_schedulers"),
    drop("epoch"),
]
RESUMED += [put("loops", value=v) for v in ([], {}, {"fit_loop": 3})] + [
    put("optimizer_states", value=3)
]
RESUMED += [put("ldm", "slots", value=v) for v in (0, -1, "x", None)] + [
    put("ldm", "images_seen", value="many")
]
RESUMED += [put("ldm", "ema", value=v) for v in ({"decay": 0.9}, {"weights": 3, "decay": 0.9})]


@pytest.mark.parametrize("change", RESUMED, ids=lambda change: change.__name__)
def test_a_checkpoint_that_cannot_be_gone_on_with_is_one_line(change, pixel_run, tmp_path):
    state = load(pixel_run / "last.ckpt")
    change(state)
    (tmp_path / "tiny-pixel").mkdir()
    write(state, tmp_path / "tiny-pixel" / "last.ckpt")
    refused(
        functools.partial(
            train_run,
            run_config("pixel", tmp_path, "trainer.max_steps=16", "sample.every=0"),
            resume=True,
        )
    )


FIT = ("loops", "fit_loop")
PROGRESS = (*FIT, "epoch_loop.automatic_optimization.optim_progress")
DONE = (*PROGRESS, "optimizer", "step", "total", "completed")
OPTIMIZER = ("optimizer_states", 0)
GROUP, MOMENTS = (*OPTIMIZER, "param_groups", 0), (*OPTIMIZER, "state", 3)
AVERAGE = ("ldm", "ema", "weights")


def first(change):
    """Of named weights, the first."""

    def changed(weights):
        (key, value), *rest = weights.items()
        return {key: change(value), **dict(rest)}

    return changed


def less(weights):
    return dict([*weights.items()][1:])


def more(weights):
    return weights | {"another": torch.zeros(2)}


def nan(w):
    return w * float("nan")


def below(w):
    return w - 1


def one(w):
    return w.sum()[None]


ODD = {
    "weights": [put("state_dict", value=v) for v in (less, more, first(one), first(nan))],
    "averages": [
        *[
            put(*AVERAGE, value=v)
            for v in (less, more, first(one), first(nan), first(lists), [], 3)
        ],
        put("ldm", "ema", value=None),
        drop("ldm", "ema", "updates"),
        *[put("ldm", "ema", "updates", value=v) for v in (-1, "8", 2.5)],
        put("ldm", "ema", "decay", value=0.5),
        put("ldm", "ema", "more", value=3),
    ],
    "optimisers": [
        *[put("optimizer_states", value=v) for v in ([], [{}], [3], lambda found: found * 2)],
        put(*OPTIMIZER, "param_groups", value=[]),
        put(*OPTIMIZER, "param_groups", value=lambda found: found * 2),
        *[put(*GROUP, "params", value=v) for v in (lambda p: p[1:], lambda p: [0] * len(p), "x")],
        *[drop(*GROUP, key) for key in ("params", "lr", "betas", "eps")],
        *[put(*GROUP, key, value="x") for key in ("lr", "betas", "eps", "weight_decay", "fused")],
        put(*GROUP, "lr", value=float("nan")),
        put(*GROUP, "betas", value=[0.1, 0.1]),
    ],
    "moments": [
        put(*OPTIMIZER, "state", value={}),
        put(*OPTIMIZER, "state", 10**6, value={}),
        drop(*MOMENTS),
        put(*MOMENTS, value=3),
        *[drop(*MOMENTS, key) for key in ("step", "exp_avg", "exp_avg_sq")],
        *[put(*MOMENTS, "exp_avg", value=v) for v in (one, nan, endless, lists, whole_numbers)],
        *[put(*MOMENTS, "exp_avg_sq", value=v) for v in (one, below, imaginary)],
        *[put(*MOMENTS, "step", value=v) for v in (torch.ones(2), torch.tensor(-1.0), "x")],
    ],
    "learning rate": [put("lr_schedulers", value=v) for v in ([{}], [{"last_epoch": 3}], ["x"])],
    "counters": [
        *[drop(*FIT, key) for key in ("epoch_progress", "state_dict", "epoch_loop.state_dict")],
        *[put(*DONE, value=v) for v in (3, -8, "8", 8.0, None)],
        put(*PROGRESS, value={"optimizer": {}}),
        drop(*FIT, "epoch_progress", "current"),
        put(*FIT, "epoch_progress", "current", "ready", value="x"),
        put(*FIT, "epoch_progress", "current", "increment_ready", value=3),
        put(*FIT, "epoch_loop.batch_progress", "is_last_batch", value="no"),
        put(*FIT, "epoch_loop.state_dict", "_batches_that_stepped", value="x"),
        *[put(*FIT, "state_dict", "combined_loader", value=v) for v in (3, ["x"], [{}, {}])],
        put("global_step", value=7),
    ],
    "callbacks": [
        *[
            put("callbacks", "Checkpoints", value=v)
            for v in (3, "best", ["best"], {"best_step": 4})
        ],
        *[put("callbacks", "Checkpoints", "best", value=v) for v in ("low", [1.0], True, 3)],
        put("callbacks", "Checkpoints", "best_step", value="last"),
        put("callbacks", "DiscriminatorBalance", value={"readings": ["x"], "said": False}),
        put("callbacks", "DiscriminatorBalance", value={"readings": [1.0], "said": "no"}),
        put("callbacks", "Timer", value={"time_elapsed": {"train": "long"}}),
        put("callbacks", 3, value={"a": 1}),
    ],
    "the rest": [
        *[put("pytorch-lightning_version", value=v) for v in (None, "x", "1.4.0", 3)],
        drop("pytorch-lightning_version"),
        *[put("ldm", "skipped", value=v) for v in ("x", -1, None)],
        put("ldm", "text", value="MiniLM"),
    ],
}


@pytest.fixture(scope="module")
def going_on(pixel_run):
    """The module and Trainer of a run that is to go on, and the state it goes on from."""
    run = run_config("pixel", "o", "trainer.max_steps=16", "sample.every=0")
    images = run.data.load()
    module = DiffusionModule(run, images.shape, images.classes)
    return module, load(pixel_run / "last.ckpt"), check_trainer(run)


def altered(state, change):
    """A copy with a change; the tensors are shared."""
    shared = {id(tensor): tensor for tensor in tensors_in(state)}
    state = copy.deepcopy(state, shared)
    change(state)
    return state


def resume(state, folder, kind="pixel", *more):
    (folder / f"tiny-{kind}").mkdir(parents=True)
    write(state, folder / f"tiny-{kind}" / "last.ckpt")
    run = run_config(kind, folder, "trainer.max_steps=16", *more)
    return functools.partial(train_run, run, resume=True)


@pytest.mark.parametrize("what", ODD)
def test_a_state_that_does_not_fit_the_run_is_one_line(what, going_on, tmp_path):
    """Where PyTorch would raise, where it would broadcast, and where no one would look."""
    module, state, trainer = going_on
    path = tmp_path / "last.ckpt"
    expect_state(module, state, path, trainer)
    for change in ODD[what]:
        line = refused(expect_state, module, altered(state, change), path, trainer)
        assert line.startswith(f"--resume: {path} does not fit this run: "), change.__name__
        assert line.endswith("name=OTHER starts another run")


@pytest.mark.slow
@pytest.mark.parametrize("what", ODD)
def test_resume_refuses_a_state_that_does_not_fit(what, pixel_run, tmp_path):
    state = load(pixel_run / "last.ckpt")
    for i, change in enumerate(ODD[what]):
        refused(resume(altered(state, change), tmp_path / str(i), "pixel", "sample.every=0"))
        folder = tmp_path / str(i) / "tiny-pixel"
        assert [path.name for path in folder.iterdir()] == ["last.ckpt"], change.__name__


def test_the_command_refuses_such_a_state_and_loses_nothing(pixel_run, tmp_path):
    folder = tmp_path / "tiny-pixel"
    shutil.copytree(pixel_run, folder)
    write(
        altered(load(folder / "last.ckpt"), put(*MOMENTS, "exp_avg", value=one)),
        folder / "last.ckpt",
    )
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    longer = "trainer.max_steps=9", "sample.every=0"
    words = "--config", TINY / "pixel.yaml", *overrides("pixel", tmp_path, *longer)
    done = here("train.py", *words, "--resume")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "last.ckpt does not fit this run: its optimiser: state '" in done.stderr
    assert "has shape (1,), not (" in done.stderr and "move it away to go on from" in done.stderr
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "last.ckpt").unlink()  # as the line says
    assert here("train.py", *words, "--resume").returncode == 0


@pytest.mark.slow
def test_a_discriminators_state_is_looked_at_from_its_first_step_on(tmp_path):
    gan = "discriminator={weight: 0.5, start: 2, warmup: 1, channels: 8}", "trainer.save=2"
    judge = ("optimizer_states", 1)
    for steps, learns in ((2, False), (4, True)):
        run = run_config("autoencoder", tmp_path / str(steps), *gan, f"trainer.max_steps={steps}")
        state = load(train_run(run) / "last.ckpt")
        assert bool(state["optimizer_states"][1]["state"]) == learns
        for i, change in enumerate([put(*judge, "state", value={}), drop(*judge, "param_groups")]):
            odd = resume(altered(state, change), tmp_path / f"{steps}-{i}", "autoencoder", *gan)
            refused(odd) if learns or i else odd()


# -- what a checkpoint may make us do --------------------------------------------------------------
def test_no_data_of_a_checkpoint_is_downloaded_or_made(states, tmp_path, monkeypatch):
    """Its config says where data lie, and that they may be fetched: they are not, and no folder is
    made.
    """
    from ldm.evaluation import jets as jet_evaluation
    from ldm.evaluation.requests import EvaluationRequest
    from ldm.evaluation.run import evaluate_checkpoint as evaluate
    from ldm.jets import data as jets
    from ldm.pictures import images

    def fetched(*_):
        raise AssertionError("downloaded")

    monkeypatch.setattr(images, "_download", fetched)
    monkeypatch.setattr(jets, "download", fetched)
    monkeypatch.chdir(tmp_path)
    for kind, name in (("pixel", "MNIST"), ("pixel", "CIFAR10"), ("jets", "JetNet")):
        state = {**states[kind], "ldm": copy.deepcopy(states[kind]["ldm"])}
        old = state["ldm"]["config"]["data"]
        state["ldm"]["config"]["data"] = {
            "name": name,
            "root": "made/by/stranger",
            "download": True,
            "workers": 10**6,
        }
        if name == "CIFAR10":
            state["ldm"]["shape"] = [3, 32, 32]
        path = write(state, tmp_path / "last.ckpt")
        flags = dict(
            checkpoint=str(path),
            count=10,
            features="digits",
            split=None,
            seed=0,
            weights="ema",
            device="cpu",
            data_root=None,
        )
        flags |= dict(
            output=str(tmp_path / "out"),
            cache=str(tmp_path / "cache"),
            solver=None,
            eta=None,
            steps=2,
            batch_size=4,
        )
        assert "data.root" in refused(
            functools.partial(evaluate, EvaluationRequest.parse(flags))
        ), old
        assert {p.name for p in tmp_path.iterdir()} <= {"last.ckpt", "out", "cache"}
    assert jet_evaluation.recorded_data is recorded_data


def test_no_text_encoder_that_a_checkpoint_names_is_fetched(states, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    import socket

    def connected(*_):
        raise AssertionError("went online")

    monkeypatch.setattr(socket.socket, "connect", connected)
    state = {**states["pixel"], "ldm": copy.deepcopy(states["pixel"]["ldm"])}
    state["ldm"]["config"] |= {
        "condition": "text",
        "text": {"name": "CLIPText", "model": "stranger/clip", "length": 12},
    }
    line = refused(restore, write(state, tmp_path / "last.ckpt"))
    assert "nothing that a checkpoint names is downloaded" in line
