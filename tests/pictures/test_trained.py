"""Trained tasks: holes, what the network is given of them, tiny runs in pixels and latents,
sample.py, and what is refused.
"""

import json

import numpy as np
import pytest
import torch
from helpers import TINY, grey, here, largest_difference, load, overrides, run_config, task
from PIL import Image

from ldm import config
from ldm.config import SampleConfig
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedules import VP
from ldm.diffusion.solvers import DDIM
from ldm.errors import Refusal
from ldm.evaluation.requests import EvaluationRequest
from ldm.evaluation.run import evaluate_checkpoint as evaluate
from ldm.networks.unet import UNet
from ldm.pictures import masks
from ldm.pictures.images import Digits
from ldm.pictures.space import PixelSpace
from ldm.pictures.trained import Generate, Inpaint, SuperResolve
from ldm.sampling.conditions import Condition
from ldm.sampling.model import restore
from ldm.system.batches import Slots, as_images, batch_indices, stream_places
from ldm.tasks.cases import Case
from ldm.tasks.prior import Prior
from ldm.training.run import train_run

FILL, LARGE = "task=Inpaint", "task={name: SuperResolve, factor: 2}"


def keys(numbers, seed=0):
    return [(seed, "hole", i) for i in numbers]


# -- holes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("rectangles", [0.0, 1.0])
@pytest.mark.parametrize("size", [(28, 28), (16, 40)])
def test_holes_have_the_shares_asked_for(rectangles, size):
    known = masks.draw(keys(range(400)), size, (0.1, 0.5), rectangles)
    assert known.shape == (400, 1, *size) and set(known.unique().tolist()) == {0, 1}
    share = 1 - known.mean((1, 2, 3))
    assert share.min() > 0.07 and share.max() < 0.53  # a rectangle's sides are whole numbers
    assert abs(share.mean() - 0.3) < 0.02 and share.std() > 0.08
    assert (1 - known).mean(0).min() > 0  # no place that is never hidden
    ends = lambda hole: torch.stack([hole.any(2).sum(1), hole.any(1).sum(1)])
    filled = (known[:, 0] == 0).sum((1, 2)) / ends(known[:, 0] == 0).prod(0)
    assert (filled == 1).all() if rectangles else (filled < 0.9).float().mean() > 0.7


def test_a_hole_is_a_function_of_its_key_alone():
    draw = lambda numbers, seed=0: masks.draw(keys(numbers, seed), (12, 12), (0.1, 0.5), 0.5)
    whole = draw(range(8))
    assert torch.equal(whole, torch.cat([draw([0, 1, 2]), draw(range(3, 8))]))
    assert (
        not torch.equal(whole, draw(range(8), seed=1)) and len(whole.flatten(1).unique(dim=0)) == 8
    )


def test_training_holes_do_not_depend_on_how_the_stream_is_cut():
    """A step's batch of 8, or four of 2 over processes and micro-batches: rows of the stream and
    their holes go together.
    """
    whole = [*stream_places(3, 0, 1, 8)]
    cut = [place for slot in range(4) for place in stream_places(3, slot, 4, 2)]
    assert whole == cut and not {*whole} & {*stream_places(4, 0, 1, 8)}
    slots = Slots(n=20, size=2, seed=0, steps=4, accumulate=2, rank=1, world=2)
    read = list(slots)[3 * 2 + 1]  # step 3, micro-batch 1 of rank 1 of 2: slot 3
    assert read == [batch_indices(place, 1, 20, 0)[0] for place in stream_places(3, 3, 4, 2)]


# -- what the network is given ---------------------------------------------------------------------
def denoiser(task):
    torch.manual_seed(0)
    net = UNet((8, 16), 1, norm_groups=4).build((1, 8, 8), 3, concat=task.channels(1))
    return Denoiser(net, VP())


def extras_of(task, picture, known=None):
    left = task.degrade(picture, keys(range(len(picture))))
    return task.extras(PixelSpace((1, 8, 8)), left[0], left[1] if known is None else known)


def test_the_hole_and_what_is_around_it_reach_the_network_and_what_is_inside_does_not():
    model, x_t, t, label = (
        denoiser(Inpaint()),
        torch.randn(2, 1, 8, 8),
        torch.tensor(0.5),
        torch.tensor([0, 1]),
    )
    picture = (torch.rand(2, 1, 8, 8) * 2 - 1).requires_grad_()
    known = torch.ones(2, 1, 8, 8)
    known[..., 2:5, 2:5] = 0
    out = model(x_t, t, label=label, **extras_of(Inpaint(), picture, known))
    gradient = torch.autograd.grad(out.square().sum(), picture)[0]
    assert (gradient[known == 0] == 0).all() and (gradient[known == 1].abs() > 0).all()
    other = known.roll(1, -1)
    assert (
        model(x_t, t, label=label, **extras_of(Inpaint(), picture, other)) - out
    ).abs().max() > 1e-3
    grey = torch.zeros(2, 1, 8, 8)  # the hole is distinct from a grey picture
    extras = lambda known: model(x_t, t, label=label, **extras_of(Inpaint(), grey, known))
    assert (extras(known) - extras(torch.ones_like(known))).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", ["box", "bicubic"])
def test_a_small_picture_reaches_the_network(kernel):
    wanted = SuperResolve(2, kernel)
    model, x_t, t, label = (
        denoiser(wanted),
        torch.randn(2, 1, 8, 8),
        torch.tensor(0.5),
        torch.tensor([0, 1]),
    )
    picture = torch.rand(2, 1, 8, 8) - 0.5
    small, _ = wanted.degrade(picture, [])
    assert small.shape == (2, 1, 4, 4) and abs(small.mean() - picture.mean()) < 0.02
    small.requires_grad_()
    out = model(x_t, t, label=label, **wanted.extras(PixelSpace((1, 8, 8)), small, None))
    assert (torch.autograd.grad(out.square().sum(), small)[0].abs() > 0).all()
    flat = wanted.degrade(torch.full_like(picture, 0.5), [])[
        0
    ]  # both kernels keep a constant, as does enlarging
    assert torch.allclose(
        wanted.extras(PixelSpace((1, 8, 8)), flat, None)["concat"],
        torch.full_like(picture, 0.5),
        atol=1e-6,
    )


# -- tiny runs -------------------------------------------------------------------------------------
LONGER = (
    "optim.lr=4e-3",
    "trainer.max_steps=150",
    "trainer.validate=150",
    "trainer.save=150",
    "sample.every=0",
    "drop=0.5",
)


@pytest.fixture(scope="module")
def fill_run(tmp_path_factory):
    """Digits with holes for 150 steps: enough to see what is around them."""
    return train_run(run_config("pixel", tmp_path_factory.mktemp("fill"), FILL, *LONGER))


@pytest.fixture(scope="module")
def large_run(tmp_path_factory):
    return train_run(run_config("pixel", tmp_path_factory.mktemp("large"), LARGE))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    pictures = Digits().load().test.images[:2, 0].numpy()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    Image.fromarray(pictures[0].reshape(4, 2, 4, 2).mean((1, 3)).round().astype(np.uint8)).save(
        folder / "small.png"
    )
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def test_training_learns_from_what_is_around_the_hole(fill_run):
    """What it makes, before pasting, has the known pixels, and in the hole is nearer to the truth
    than if given another's.
    """
    model, pictures = (
        restore(fill_run),
        as_images(Digits().load().test.__getitems__(list(range(48)))),
    )
    known = masks.draw(keys(range(48)), (8, 8), (0.2, 0.3), 0.5)
    prior = Prior(model, SampleConfig(DDIM(), steps=8), range(48))
    error = lambda of, where: (
        ((prior.completed(Case("", of, known)) - pictures).square() * where).sum() / where.sum()
    )
    right, wrong = (
        [error(of, where).item() for where in (known, 1 - known)]
        for of in (pictures, pictures.roll(1, 0))
    )
    assert right[0] < 0.2 * wrong[0] and right[1] < 0.9 * wrong[1], (right, wrong)


def test_a_run_logs_its_panel(fill_run):
    names = sorted(p.name for p in (fill_run / "samples").iterdir())
    assert names == ["inpaint-0000000.png", "inpaint-0000150.png"]
    shown = [Image.open(fill_run / "samples" / name) for name in names]
    # 8 pictures; mask, three seeds, mean, before pasting, spread, truth
    assert shown[0].size == shown[1].size and abs(shown[0].width / shown[0].height - 1) < 0.2
    for left, right in ((0, 1), (7, 8)):
        given = [np.asarray(p)[:, left * p.width // 8 : right * p.width // 8] for p in shown]
        assert np.array_equal(*given)
    assert not np.array_equal(*map(np.asarray, shown))


def test_guidance_of_classes_leaves_the_picture_told(fill_run):
    model, seeds = restore(fill_run), [0, 1, 2]
    pictures = as_images(Digits().load().test.__getitems__([0, 1, 2]))
    known = masks.draw(keys(seeds), (8, 8), (0.3, 0.3), 1.0)
    extras = model.purpose.extras(model.space, pictures, known)
    guided, x, t = (
        Prior(model, SampleConfig(guidance=3.0), seeds, Condition([4] * 3)).denoise(**extras),
        torch.randn(3, 1, 8, 8),
        torch.tensor(0.6),
    )
    of = lambda label: model.denoiser(x, t, label=torch.full((3,), label), **extras)
    assert torch.allclose(guided(x, t), of(10) + 3 * (of(4) - of(10)), atol=1e-4)
    assert torch.allclose(
        Prior(model, SampleConfig(guidance=3.0), seeds).denoise(**extras)(x, t), of(10), atol=1e-5
    )


def test_known_pixels_are_pasted_and_seeds_differ(fill_run, inputs, tmp_path):
    images = [str(inputs / f"{i}.png") for i in (0, 1)]
    out = task(fill_run, tmp_path / "o", "inpaint", image=images, mask=str(inputs / "mask.png"))
    hole = grey(inputs / "mask.png") > 0
    for name in ("0", "1"):
        given, a, b = (
            grey(inputs / f"{name}.png"),
            *(grey(out / f"{name}-0000000{i}.png") for i in (0, 1)),
        )
        assert np.abs(a - given)[~hole].max() <= 1 and np.abs(b - given)[~hole].max() <= 1
        assert np.abs(a - b)[hole].max() > 5
        assert np.array_equal(grey(out / f"{name}-00000000-unpasted.png")[hole], a[hole])
    assert json.loads((out / "settings.json").read_text())["method"] == "trained"
    alone = task(
        fill_run,
        tmp_path / "a",
        "inpaint",
        image=images[1:],
        mask=str(inputs / "mask.png"),
        seed=1,
        count=1,
    )
    assert np.abs(grey(alone / "1-00000001.png") - grey(out / "1-00000001.png")).max() <= 1


def test_super_resolution_takes_small_pictures_or_shrinks_whole_ones(large_run, inputs, tmp_path):
    small = task(large_run, tmp_path / "a", "super-resolve", image=[str(inputs / "small.png")])
    assert grey(small / "small-00000000.png").shape == (8, 8)
    task(
        large_run,
        tmp_path / "b",
        "super-resolve",
        image=[str(inputs / "0.png")],
        degrade=True,
        factor=2,
    )
    # the same small picture but for its rounding to 8 bits
    assert (
        np.abs(grey(small / "small-00000000.png") - grey(tmp_path / "b" / "0-00000000.png")).max()
        <= 4
    )


@pytest.mark.slow
def test_in_latents(stage1, inputs, tmp_path):
    """The picture around the hole is encoded, the hole comes on the latents' grid, and another mask
    gives another picture.
    """
    path = train_run(run_config("latent", tmp_path, f"space.autoencoder={stage1}", FILL))
    model, picture = restore(path), as_images(Digits().load().test.__getitems__([0]))
    known = torch.ones(1, 1, 8, 8)
    known[..., 3, 3] = 0
    extras = model.purpose.extras(model.space, picture, known)["concat"]
    assert (
        extras.shape == (1, 3, 4, 4) and (extras[0, 2] > 0).sum() == 1 and extras[0, 2, 1, 1] == 1
    )
    around = model.space.encode_mean(torch.where(known > 0, picture, 0))
    assert torch.equal(extras[:, :2], around) and not torch.equal(
        around, model.space.encode_mean(picture)
    )
    assert not (tmp_path / "latents").exists()  # pictures are needed, no cache is written
    out = task(
        path,
        tmp_path / "o",
        "inpaint",
        image=[str(inputs / "0.png")],
        mask=str(inputs / "mask.png"),
    )
    hole = grey(inputs / "mask.png") > 0
    assert np.array_equal(grey(out / "0-00000000.png")[~hole], grey(inputs / "0.png")[~hole])


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    """4 steps and 3 more: the holes go by the stream's place, not by what ran before."""
    run_of = lambda folder, steps: run_config(
        "pixel", tmp_path / folder, FILL, f"trainer.max_steps={steps}", "sample.every=0"
    )
    train_run(run_of("parts", 4))
    resumed = load(train_run(run_of("parts", 7), resume=True) / "last.ckpt")
    whole = load(train_run(run_of("whole", 7)) / "last.ckpt")
    assert largest_difference(resumed["state_dict"], whole["state_dict"]) == 0


@pytest.mark.slow
def test_the_scripts(inputs, tmp_path):
    done = here("train.py", "--config", TINY / "pixel.yaml", *overrides("pixel", tmp_path, FILL))
    assert done.returncode == 0, done.stderr
    assert (
        "trained for inpaint" in done.stdout
        and (tmp_path / "tiny-pixel/samples/inpaint-0000008.png").exists()
    )
    common = (
        "--checkpoint",
        tmp_path / "tiny-pixel",
        "--output",
        tmp_path / "o",
        "--steps",
        2,
        "--device",
        "cpu",
    )
    failed = here("sample.py", *common)
    assert (
        failed.returncode == 2
        and failed.stderr.count("\n") == 1
        and "trained for inpaint and needs --task" in failed.stderr
    )
    done = here(
        "sample.py",
        *common,
        "--task",
        "inpaint",
        "--image",
        inputs / "0.png",
        "--mask",
        inputs / "mask.png",
        "--label",
        3,
    )
    assert done.returncode == 0 and "inpaint by trained" in done.stdout, done.stderr


# -- what is refused -------------------------------------------------------------------------------
REFUSED = {
    "task": (
        "fill_run",
        "denoise",
        {},
        "trained for inpaint alone and needs --task inpaint --image FILE --mask FILE",
    ),
    "sr-by-fill": ("fill_run", "super-resolve", {}, "trained for inpaint alone"),
    "fill-by-sr": (
        "large_run",
        "inpaint",
        {},
        "trained for super-resolve alone .* 2 times smaller",
    ),
    "method": ("fill_run", "inpaint", dict(method="guide"), "'guide' is not one of trained"),
    "untrained": (
        "pixel_run",
        "inpaint",
        dict(method="trained"),
        "not trained for inpaint; it does it by guide, project",
    ),
    "factor": ("large_run", "super-resolve", dict(factor=4), "trained with 2, not 4"),
    "no-mask": ("fill_run", "inpaint", {}, "needs --mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case, inputs, tmp_path, request):
    run_of, name, given, message = REFUSED[case]
    checkpoint = request.getfixturevalue(run_of)
    with pytest.raises(Refusal, match=message) as error:
        task(checkpoint, tmp_path / "o", name, image=[str(inputs / "0.png")], **given)
    assert "\n" not in str(error.value) and not (tmp_path / "o").exists()


def test_a_picture_of_another_size_is_scaled_and_said(large_run, inputs, tmp_path, capsys):
    task(large_run, tmp_path / "o", "super-resolve", image=[str(inputs / "0.png")])
    assert "is 8 x 8 pixels: scaled, to 4 x 4, as in training" in capsys.readouterr().out


def test_a_trained_model_makes_nothing_of_nothing(fill_run, tmp_path):
    with pytest.raises(Refusal, match="trained for inpaint and needs --task inpaint"):
        task(fill_run, tmp_path / "o", None)
    with pytest.raises(Refusal, match=r"evaluate\.py gives the model no picture"):
        words = dict(checkpoint=str(fill_run), count=50, device="cpu", output=str(tmp_path / "e"))
        evaluate(EvaluationRequest.parse(words))


def test_configs_that_do_not_fit_are_refused(tmp_path):
    for override, message in [
        ("task={name: Inpaint, area: [0.5, 0.2]}", "area must be two shares"),
        ("task={name: SuperResolve, factor: 1}", "factor must be at least 2"),
        ("task=Inpant", "did you mean 'Inpaint'"),
        ("task={name: SuperResolve, kernel: cubic}", "kernel"),
    ]:
        with pytest.raises(Refusal, match=message):
            run_config("pixel", tmp_path, override)
    with pytest.raises(Refusal, match=r"evaluate\.every=0"):
        run_config("pixel", tmp_path, FILL, "evaluate.every=5")
    with pytest.raises(Refusal, match="task Inpaint is for pictures"):
        config.load(TINY / "jets.yaml", [FILL])
    with pytest.raises(Refusal, match="3 does not divide the data's 8 x 8 pixels"):
        train_run(run_config("pixel", tmp_path, "task={name: SuperResolve, factor: 3}"))
    assert isinstance(run_config("pixel", tmp_path).task, Generate)
