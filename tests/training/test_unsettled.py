"""A gradient that is not finite is found a step later, and nothing has changed until then."""

import pytest
import torch
from helpers import largest_difference, load, run_config, table_of

from ldm.errors import NotFinite
from ldm.training.autoencoder import AutoencoderModule
from ldm.training.diffusion import DiffusionModule
from ldm.training.run import train_run
from ldm.training.unsettled import guard

GAN = "discriminator={weight: 0.5, warmup: 1, channels: 8, layers: 1}"
VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16, patience: 2}"
# steps that are followed by a row, a save, validation and a snapshot, and steps that are not
EVENTS = ("trainer.log=2", "trainer.save=4", "trainer.validate=4", "trainer.max_steps=8")
EVENTS += ("trainer.options.limit_val_batches=1",)


def poison(monkeypatch, module, step):
    """Pictures that are not finite at a step, as its own micro-batch sees it."""
    clean = module.training_images

    def training_images(self, batch, batch_idx):
        images = clean(self, batch, batch_idx)
        return images * float("nan") if self.global_step == step else images

    monkeypatch.setattr(module, "training_images", training_images)


def tensors(state):
    """All that a checkpoint has trained, averaged and counted."""
    own = state["ldm"]
    optimizers = {
        f"optimizer {i} {name} {key}": value
        for i, one in enumerate(state["optimizer_states"])
        for name, values in one["state"].items()
        for key, value in values.items()
    }
    numbers = {key: torch.tensor(own[key]) for key in ("images_seen", "skipped")}
    average = {f"average {key}": value for key, value in own["ema"]["weights"].items()}
    return dict(state["state_dict"]) | optimizers | average | numbers


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize(
    "kind, module, more",
    [
        ("pixel", DiffusionModule, ["optim.posthoc=2", "sample.every=4"]),
        ("autoencoder", AutoencoderModule, [GAN]),
        ("autoencoder", AutoencoderModule, [VQ]),
    ],
)
def test_a_refused_step_has_changed_nothing(tmp_path, monkeypatch, step, kind, module, more):
    """Found at a row (step 3) or a step late (step 4): the file is that of a run of `step` steps,
    to the bit, and a run that goes on from it ends as one that was never poisoned.
    """
    with monkeypatch.context() as patch:
        poison(patch, module, step)
        with pytest.raises(NotFinite, match=f"at step {step}: .*the state before this step"):
            train_run(run_config(kind, tmp_path / "bad", *EVENTS, *more))
    found = load(tmp_path / "bad" / f"tiny-{kind}" / "last.ckpt")
    assert found["global_step"] == step
    asked = run_config(kind, tmp_path / "whole", *EVENTS, *more, f"trainer.save={step}")
    kept = {}
    clean = module.on_save_checkpoint

    def keep(self, state):
        clean(self, state)
        kept.setdefault(self.global_step, {k: v.clone() for k, v in tensors(state).items()})

    with monkeypatch.context() as patch:
        patch.setattr(module, "on_save_checkpoint", keep)
        whole = load(train_run(asked) / "last.ckpt")
    assert largest_difference(tensors(found), kept[step]) == 0
    resumed = load(
        train_run(run_config(kind, tmp_path / "bad", *EVENTS, *more), True) / "last.ckpt"
    )
    assert largest_difference(tensors(resumed), tensors(whole)) == 0


def test_a_step_that_is_left_out_is_counted_and_the_weights_stay(tmp_path, monkeypatch):
    poison(monkeypatch, DiffusionModule, 4)
    more = ("trainer.on_nan=skip", "trainer.max_steps=6", "trainer.log=1", "trainer.save=100")
    seen = {}
    start = DiffusionModule.on_train_batch_start

    def watch(self, batch, batch_idx):
        seen[self.global_step] = [p.detach().clone() for p in self.net.parameters()]
        start(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "on_train_batch_start", watch)
    folder = train_run(run_config("pixel", tmp_path, "sample.every=0", *more))
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(seen[a], seen[b], strict=True))
    assert same(4, 5) and not same(3, 4)
    assert load(folder / "last.ckpt")["ldm"]["skipped"] == 1
    rows = {row["step"]: row.get("train/skipped_steps") for row in table_of(folder)}
    assert rows["4"] == rows["5"] == "1.0" and not rows["3"]


def test_guarded_optimisers_step_only_where_all_norms_are_finite():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], 0.1, fused=True)
    for norms, moves in (([1.0, 2.0], True), ([1.0, float("inf")], False)):
        before, parameter.grad = parameter.detach().clone(), torch.ones(3)
        assert guard([optimizer], torch.tensor(norms)) == (not moves)
        optimizer.step()
        assert torch.equal(before, parameter) != moves
    assert optimizer.state[parameter]["step"] == 1
