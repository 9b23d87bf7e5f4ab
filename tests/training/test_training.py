"""Runs: averages, what they learn and leave behind, what stops them, what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import (
    TINY,
    column_of,
    largest_difference,
    load,
    one_line,
    overrides,
    run_config,
    script,
    snapshot,
)
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from ldm.errors import NotFinite, Refusal
from ldm.training.ema import EMA
from ldm.training.rate import learning_rate
from ldm.training.run import train_run


def test_average_against_its_closed_form():
    net = nn.Linear(2, 1)
    ema = EMA(net, (0.9,))
    expected = net.weight.detach().clone()
    for n in range(60):
        with torch.no_grad():
            net.weight.add_(1.0)
        ema.update()
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * net.weight.detach()
    assert torch.allclose(ema.shadow["weight"], expected, atol=1e-4)
    raw = net.weight.detach().clone()
    with pytest.raises(RuntimeError), ema.applied():
        assert torch.equal(net.weight, ema.shadow["weight"])
        raise RuntimeError
    assert torch.equal(net.weight, raw)


class Listed(nn.Sequential):
    """A network that counts how often its weights are listed."""

    lists = 0

    def state_dict(self, *args, **kwargs):
        self.lists += 1
        return super().state_dict(*args, **kwargs)


def test_averages_lie_as_their_weights_do_and_these_are_listed_once():
    net = Listed(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 1), nn.GroupNorm(2, 4))
    ema = EMA(net, (0.9,), (0.05,))
    net.to(memory_format=torch.channels_last)
    before = net.lists
    for _ in range(5):
        with torch.no_grad():
            net[0].weight.mul_(1.5)
        ema.update()
        with ema.applied():
            assert torch.equal(net[0].weight, ema.shadow["0.weight"])
    assert net.lists == before + 1
    state = ema.state()
    ema.restore(state | {"weights": {k: w.contiguous() for k, w in state["weights"].items()}})
    for shadow in (ema.shadow, ema.powers[0.05]):
        assert not shadow["0.weight"].is_contiguous()
        for name, p in net.named_parameters():
            assert shadow[name].stride() == p.stride(), name


def test_learning_rate_is_a_function_of_the_step():
    optim = run_config("pixel", "x", "optim={lr: 1.0, warmup: 10, decay: cosine}").optim
    rates = [learning_rate(optim, step, 110) for step in (0, 4, 9, 60, 110)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 0.5, 0.0])


def test_two_runs_are_the_same_and_another_seed_is_not(pixel_run, tmp_path):
    again = load(train_run(run_config("pixel", tmp_path)) / "last.ckpt")["state_dict"]
    other = load(train_run(run_config("pixel", tmp_path, "seed=1", "name=other")) / "last.ckpt")[
        "state_dict"
    ]
    assert largest_difference(load(pixel_run / "last.ckpt")["state_dict"], again) == 0
    assert largest_difference(other, again) > 0


@pytest.mark.slow
def test_learns(tmp_path):
    """120 steps on two pictures: the v-loss falls below a third of its start."""
    images = load_digits().images[:2]
    for i, image in enumerate(images):
        Image.fromarray((image / 16 * 255).astype("uint8")).save(tmp_path / f"{i}.png")
    data = f"data={{name: ImageFolder, root: {tmp_path}, size: 8, batch_size: 64}}"
    more = (
        "trainer.max_steps=120",
        "trainer.validate=120",
        "sample.every=0",
        "network.channels=[16,32]",
        "optim.lr=4e-3",
    )
    folder = train_run(run_config("pixel", tmp_path, data, *more))
    losses = [float(v) for v in column_of(folder / "metrics.csv", "train/loss").values()]
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]


def test_checkpoint_is_plain_and_whitened(latent_run, stage1):
    for path in [*latent_run.glob("*.ckpt"), *stage1.glob("*.ckpt")]:
        assert load(path)["ldm"]["version"] == 1
    state = load(latent_run / "last.ckpt")
    assert state["ldm"]["autoencoder"]["hash"] and (state["state_dict"]["space.std"] != 1).all()
    assert {"config.yaml", "last.ckpt", "best.ckpt", "metrics.csv", "samples", "run.json"} <= {
        p.name for p in latent_run.iterdir()
    }
    assert len(list((latent_run / "samples").glob("samples-*.png"))) == 3
    names = (latent_run / "metrics.csv").read_text().splitlines()[0]
    for name in (
        "loss_by_time/0",
        "loss_by_time/7",
        "train/grad_norm_clipped",
        "speed/waiting_share",
    ):
        assert name in names
    rows = column_of(latent_run / "metrics.csv", "val/latent_std")
    assert all(0.9 < float(v) < 1.1 for v in rows.values())
    for folder in (latent_run, stage1):
        shares = [
            float(v)
            for i in range(2)
            for v in column_of(folder / "metrics.csv", f"val/latent_explained/{i}").values()
        ]
        assert len(shares) == 4 and all(0.5 < share < 1 for share in shares[1::2])


def test_wandb_offline_file_read_back(latent_run):
    """The official reader finds losses, rates, samples, the config, and the id that the checkpoint
    knows.
    """
    (run,) = (latent_run / "wandb").glob("offline-run-*")
    wandb = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    lines = subprocess.run(
        [*wandb, run], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for name in (
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "val/loss",
        "speed/images_per_second",
        "pictures/samples",
        "pictures/trajectory",
        "pictures/trajectory-animation",
        "tiny-latent",
    ):
        assert name in lines, name
    assert load(latent_run / "last.ckpt")["ldm"]["wandb_id"] in run.name
    assert (
        len(list((run / "files" / "media" / "images" / "pictures").glob("*.png"))) == 6
        and len(list(run.rglob("*.gif"))) == 3
    )
    json.loads(lines.splitlines()[0])


def test_a_dry_run_of_a_run_that_is_there_prints_its_plan_and_says_so(pixel_run, capsys):
    assert train_run(run_config("pixel", pixel_run.parent), dry_run=True) == pixel_run
    assert (
        "note       as it stands: " in (said := capsys.readouterr().out)
        and "is finished (8 steps)" in said
    )


def test_runs_are_never_overwritten(pixel_run):
    before = snapshot(pixel_run)
    with pytest.raises(Refusal, match=r"is finished \(8 steps\)"):
        train_run(run_config("pixel", pixel_run.parent))
    with pytest.raises(Refusal, match=r"holds an unfinished run \(8 of 20 steps\); add --resume"):
        train_run(run_config("pixel", pixel_run.parent, "trainer.max_steps=20"))
    with pytest.raises(Refusal, match=r"network.channels, optim.betas changed since"):
        train_run(
            run_config(
                "pixel",
                pixel_run.parent,
                "trainer.max_steps=20",
                "network.channels=[16,16]",
                "optim.betas=[0.5,0.9]",
            ),
            resume=True,
        )
    assert snapshot(pixel_run) == before


def test_loss_that_is_not_finite_stops_before_the_step(tmp_path, monkeypatch):
    """One poisoned batch at step 3: its rows are named, the state of step 3 is saved, and resuming
    without it goes on.
    """
    from ldm.training.diffusion import DiffusionModule

    clean = DiffusionModule.training_images

    def poison(self, batch, batch_idx):
        images = clean(self, batch, batch_idx)
        return images * float("nan") if self.global_step == 3 else images

    monkeypatch.setattr(DiffusionModule, "training_images", poison)
    with pytest.raises(
        NotFinite, match=r"not finite \(nan\) at step 3: loss nan, x_0 nan, rows \[\d+, .*saved"
    ) as error:
        train_run(run_config("pixel", tmp_path / "stop"))
    assert "\n" not in str(error.value)
    state = load(tmp_path / "stop" / "tiny-pixel" / "last.ckpt")
    assert state["global_step"] == 3 and all(
        torch.isfinite(v).all() for v in state["state_dict"].values()
    )
    skipped = load(
        train_run(run_config("pixel", tmp_path / "skip", "trainer.on_nan=skip")) / "last.ckpt"
    )
    assert skipped["global_step"] == 8 and all(
        torch.isfinite(v).all() for v in skipped["state_dict"].values()
    )
    monkeypatch.setattr(DiffusionModule, "training_images", clean)
    resumed = load(train_run(run_config("pixel", tmp_path / "stop"), resume=True) / "last.ckpt")
    whole = load(train_run(run_config("pixel", tmp_path / "whole")) / "last.ckpt")
    assert largest_difference(resumed["state_dict"], whole["state_dict"]) == 0


@pytest.mark.slow
def test_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path):
    """A real full file system: a tmpfs too small for a second checkpoint beside the first."""
    size = (train_run(run_config("pixel", tmp_path / "elsewhere")) / "last.ckpt").stat().st_size
    disk = tmp_path / "disk"
    disk.mkdir()
    room = f"size={int(1.7 * size)}"  # one checkpoint and what else a run writes, but not two
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", room, "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    try:
        more = ["trainer.max_steps=16", "trainer.validate=16", "sample.every=0"]
        done = script("train.py", "--config", TINY / "pixel.yaml", *overrides("pixel", disk, *more))
        one_line(done, "could not be written", "MB are free")
        assert load(disk / "tiny-pixel" / "last.ckpt")["global_step"] == 4
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_compiled_and_channels_last_it_trains_the_same(pixel_run, tmp_path):
    """The same weights under the same names, within what another order of sums makes of 8 steps of
    Adam.
    """
    counters = torch._dynamo.utils.counters
    counters.clear()
    folder = train_run(
        run_config("pixel", tmp_path, "trainer.compile=true", "trainer.channels_last=true")
    )
    assert counters["stats"]["unique_graphs"] and counters["aot_autograd"]["ok"]
    plain, quick = (load(path / "last.ckpt") for path in (pixel_run, folder))
    gaps = torch.cat(
        [(plain["state_dict"][k] - v).abs().flatten() for k, v in quick["state_dict"].items()]
    )
    assert plain["state_dict"].keys() == quick["state_dict"].keys() and gaps.mean() < 1e-5
    assert plain["ldm"]["ema"]["weights"].keys() == quick["ldm"]["ema"]["weights"].keys()
