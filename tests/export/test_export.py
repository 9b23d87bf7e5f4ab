"""A checkpoint as a diffusers folder: stock diffusers' pictures are ours within a grey level."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from helpers import load, run_config

from ldm.config import SampleConfig
from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.exact import Gaussian
from ldm.diffusion.schedules import VP, Cosine, Discrete
from ldm.diffusion.solvers import DDIM, DPMpp2M, sample, start
from ldm.errors import Refusal
from ldm.export.folder import (
    expect_exportable,
    export,
    pipeline_card,
    scheduler,
    schedulers,
    whitened,
)
from ldm.export.pipeline import LDMPipeline
from ldm.pictures.space import PixelSpace
from ldm.sampling.conditions import Condition
from ldm.sampling.generate import generate
from ldm.sampling.model import Model, restore
from ldm.sampling.settings import Overrides
from ldm.system.randomness import SampleNoise
from ldm.training.run import train_run

SEEDS, LABELS, PROMPTS = [3, 4, 5, 6], [1, 7, 0, 9], ["red", "blue", "", "green"]
STOCK = {DDIM: {}, DPMpp2M: {"final_sigmas_type": "zero", "lower_order_final": True}}


def with_scheduler(pipe, solver):
    scheduler = type(pipe.scheduler) if solver is DDIM else DPMSolverMultistepScheduler
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **STOCK[solver])
    pipe.set_progress_bar_config(disable=True)


def grey(pictures):
    return np.round(255 * np.asarray(pictures)).transpose(0, 3, 1, 2)


def pictures(pipe, model, steps, **cond):
    """Stock diffusers from the noise that sample.py starts with, at the first time's alpha_t = 0
    within 1e-2.
    """
    noise = SampleNoise(SEEDS, model.space.shape, "cpu")()
    _, sigma = model.denoiser.schedule(torch.tensor(1.0))
    return grey(pipe(latents=sigma * noise, steps=steps, output_type="np", **cond).images)


@pytest.mark.parametrize("kind", ["pixel_run", "latent_run", "text_run"])
def test_diffusers_draws_what_we_draw(kind, request, tmp_path):
    """Classes and captions, guided; the mean and std of latents and the time are folded into the
    weights.
    """
    run = request.getfixturevalue(kind)
    folder, model = export(str(run), str(tmp_path / "out")), restore(run)
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    cond = {"prompts": PROMPTS} if model.text else {"labels": LABELS}
    for solver in STOCK:
        with_scheduler(pipe, solver)
        given = dict(
            solver=solver.__name__, eta=None, steps=10, guidance=2.0, batch_size=4, grid="uniform"
        )
        ours = generate(
            model, Overrides(**given).over(model.settings), SEEDS, Condition(**cond)
        ).numpy()
        theirs = pictures(pipe, model, 10, guidance=2.0, **cond)
        assert ours.std() > 10 and np.abs(theirs - ours).max() <= 1
        others = pictures(pipe, model, 10, guidance=1.0, **cond)
        assert np.abs(theirs - others).max() > 1  # guidance does something


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_a_model_of_nothing_is_a_stock_pipeline(kind, stage1, tmp_path):
    """No code in the folder: DDIMPipeline, LDMPipeline."""
    more = [f"space.autoencoder={stage1}"] if kind == "latent" else []
    run = train_run(run_config(kind, tmp_path, "condition=none", *more))
    folder, model = export(str(run), str(tmp_path / "out")), restore(run)
    assert not list(folder.rglob("*.py"))
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert type(pipe).__name__ == {"pixel": "DDIMPipeline", "latent": "LDMPipeline"}[kind]
    x = randn_tensor((4, *model.space.shape), generator=torch.Generator().manual_seed(5))
    for solver in STOCK if kind == "latent" else [DDIM]:  # DDIMPipeline has no scheduler but DDIM
        with_scheduler(pipe, solver)
        asked = dict(
            batch_size=4,
            num_inference_steps=20,
            output_type="np",
            generator=torch.Generator().manual_seed(5),
        )
        theirs = grey(pipe(**asked).images)
        with torch.inference_mode():
            ours = model.space.finish(draw(model, solver(), x), {}).numpy()
        assert ours.std() > 10 and np.abs(theirs - ours).max() <= 1


@pytest.mark.parametrize("segments, scheduler", [(1, "LCM"), (2, "DPMSolverMultistep")])
def test_diffusers_draws_what_a_student_draws(segments, scheduler, pixel_run, tmp_path):
    """From the same noise, at the table's times nearest to the student's."""
    loss = f"loss={{name: Consistency, segments: {segments}, first: 4, last: 4}}"
    sampled = f"{{grid: uniform, solver: {{name: Consistency, segments: {segments}}}, steps: 2, guidance: 1}}"
    given = f"init={pixel_run}", loss, f"sample={sampled}", "drop=0", "trainer.max_steps=2"
    run = train_run(run_config("pixel", tmp_path, "name=student", "sample.every=0", *given))
    folder, model = export(str(run), str(tmp_path / "out")), restore(run)
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert type(pipe.scheduler).__name__ == f"{scheduler}Scheduler"
    pipe.set_progress_bar_config(disable=True)
    noise = SampleNoise(SEEDS, model.space.shape)  # a picture's generator goes on as ours does
    _, sigma = model.denoiser.schedule(torch.tensor(1.0))
    asked = {"latents": sigma * noise(), "labels": LABELS, "output_type": "np"}
    theirs = grey(pipe(**asked, generator=noise.generators).images)
    ours = generate(model, replace(model.settings, batch_size=4), SEEDS, Condition(labels=LABELS))
    assert ours.numpy().std() > 10 and np.abs(theirs - ours.numpy()).max() <= 1
    with pytest.raises(ValueError, match="this student makes 2 steps"):
        pipe(labels=LABELS, steps=4)


def draw(model, solver, noise, steps=20):
    schedule = model.denoiser.schedule
    times = schedule.grid(steps, "uniform")
    return sample(
        solver.bind(schedule, times), model.denoiser, start(schedule, times[0], noise), times, None
    )


def test_the_whitened_autoencoder_goes_both_ways(latent_run):
    model = restore(latent_run)
    space, image = model.space, torch.rand(4, 1, 8, 8) * 2 - 1
    net = whitened(space.autoencoder.net, space.mean, space.std)
    before, after = space.autoencoder.net.encode(image).latent_dist, net.encode(image).latent_dist
    shift, scale = space.mean[:, None, None], space.std[:, None, None]
    assert torch.allclose(after.mean, (before.mean - shift) / scale, atol=1e-5)
    assert torch.allclose(after.std, before.std / scale, rtol=1e-4)
    assert torch.allclose(
        net.decode(after.mean).sample, space.autoencoder.net.decode(before.mean).sample, atol=1e-5
    )


@pytest.mark.slow
def test_the_command_and_what_it_refuses(pixel_run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ldm.export",
        "--checkpoint",
        str(pixel_run),
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "exported to" in done.stdout, done.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (
        again.returncode == 2
        and "is there already" in again.stderr
        and "Traceback" not in again.stderr
    )
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert [image.size for image in pipe(labels=[3, 7], steps=2).images] == [(8, 8)] * 2
    with pytest.raises(ValueError, match="labels must be 0"):
        pipe(labels=[10], steps=2)
    precious = tmp_path / "new.partial" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    export(str(pixel_run), str(tmp_path / "new"))
    assert precious.read_text() == "mine" and not list(tmp_path.glob("new.[!p]*"))
    model = restore(pixel_run)
    model.denoiser.schedule = type("Other", (), {"variance_preserving": False})()
    with pytest.raises(Refusal, match=r"want alpha\^2 \+ sigma\^2 = 1, not Other"):
        expect_exportable(model)


class Exact(torch.nn.Module):
    """A U-Net that knows N(0.1, 0.3^2) and says of it what is predicted, at entry t of the table."""

    factor, dtype, device = 1, torch.float32, torch.device("cpu")

    def __init__(self, schedule, predict):
        super().__init__()
        self.gaussian, self.loss = Gaussian(schedule, 0.1, 0.3), Loss(predict)
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, class_labels=None):
        at = (torch.as_tensor(t).double() + 1) / 1000
        skip, out, _ = self.loss.coefficients(self.gaussian.schedule, at)
        return SimpleNamespace(sample=((self.gaussian(x.double(), at) - skip * x) / out).float())


LAWS = {
    "VP": VP(),
    "VP to 30": VP(0.1, 30.0),
    "Cosine": Cosine(),
    "Discrete": Discrete(),
    "cosine": Discrete("cosine"),
    "scaled": Discrete("scaled_linear"),
    "zero": Discrete(zero_snr=True),
    "cosine zero": Discrete("cosine", zero_snr=True),
    "of 100": Discrete(steps=100, beta_start=1e-3, beta_end=0.2, zero_snr=True),
}
CASES = [
    (law, predict)
    for law in LAWS
    for predict in ("eps", "v", "x0")
    if predict != "eps" or LAWS[law](torch.ones(()))[0] > 0
]
FAST = [("VP", "eps"), ("zero", "v"), ("cosine zero", "x0")]
OURS = {"DDIM": DDIM(), "EulerDiscrete": DDIM(), "DPMSolverMultistep": DPMpp2M()}


@pytest.mark.parametrize(
    "law, predict", [pytest.param(*c, marks=[] if c in FAST else pytest.mark.slow) for c in CASES]
)
def test_every_scheduler_that_the_card_names(law, predict):
    """On an exact network: mean and spread of the data, and our own solver's samples where it is
    one of ours.
    """
    schedule, shape = LAWS[law], (1, 32, 32)
    net = Exact(schedule, predict)
    model = Model(
        Denoiser(net, schedule, Loss(predict)), PixelSpace(shape), ("a", "b"), SampleConfig()
    )
    about = {
        "classes": ["a", "b"],
        "shape": shape,
        "factor": 1,
        "picture": shape,
        "steps": 50,
        "guidance": 1.0,
        "prompts": [],
    }
    pipe = LDMPipeline(net, scheduler(model), about=json.dumps(about | {"length": 0}))
    pipe.set_progress_bar_config(disable=True)
    text, names = (
        pipeline_card(model, "here", "ema", SimpleNamespace(name="there")),
        schedulers(model),
    )
    assert len(names) >= 5 and all(f"`{name}Scheduler`" in text for name in names[1:])
    noise = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    for name in names:
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(scheduler(model).config)
        asked = {
            "latents": noise,
            "generator": torch.Generator().manual_seed(1),
            "num_inference_steps": 50,
            "output_type": "np",
        }
        made = 2 * torch.from_numpy(pipe(**asked).images).permute(0, 3, 1, 2) - 1
        assert abs(made.mean() - 0.1) < 0.03 and abs(made.std() / 0.3 - 1) < 0.2, name
        if name in OURS:
            times, exact = schedule.grid(50, "uniform"), Gaussian(schedule, 0.1, 0.3)
            ours = sample(OURS[name], exact, start(schedule, times[0], noise), times, None).clamp(
                -1, 1
            )
            assert (ours - made).abs().mean() < 0.01, name


def test_the_arguments_are_diffusers(pixel_run, tmp_path):
    """num_inference_steps, guidance_scale, generator, num_images_per_prompt; the older names; what
    the model has not.
    """
    pipe = DiffusionPipeline.from_pretrained(
        export(str(pixel_run), str(tmp_path / "out")), trust_remote_code=True
    )
    pipe.set_progress_bar_config(disable=True)
    seeded = lambda *seeds: [torch.Generator().manual_seed(seed) for seed in seeds]
    few = {"num_inference_steps": 2, "output_type": "np"}
    made = pipe(
        class_labels=[3, 7],
        num_images_per_prompt=2,
        guidance_scale=2.0,
        generator=seeded(5, 6, 7, 8),
        **few,
    ).images
    old = pipe(
        labels=[3, 3, 7, 7], seeds=[5, 6, 7, 8], steps=2, guidance=2.0, output_type="np"
    ).images
    assert made.shape == (4, 8, 8, 1) and np.array_equal(made, old)
    assert (
        np.abs(
            pipe(class_labels=7, guidance_scale=2.0, generator=seeded(7), **few).images - made[2]
        ).max()
        < 1e-5
    )
    single = pipe(class_labels=[3, 7], generator=seeded(5)[0], return_dict=False, **few)[0]
    wanted = torch.randn(2, 1, 8, 8, generator=seeded(5)[0])
    assert np.array_equal(single, pipe(class_labels=[3, 7], latents=wanted, **few).images)
    for name in ("DDPM", "EulerAncestralDiscrete"):  # their noise is of the generators too
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
        twice = [pipe(class_labels=[3, 7], generator=seeded(1, 2), **few).images for _ in range(2)]
        alone = pipe(class_labels=7, generator=seeded(2), **few).images
        assert np.array_equal(*twice) and np.abs(alone[0] - twice[0][1]).max() < 1e-5
    for wrong, message in (
        ({"steps": 2, "num_inference_steps": 2}, "older name of num_inference_steps"),
        ({"step": 2}, "no argument 'step'"),
        ({"num_inference_steps": 0}, "at least 1, got 0"),
        ({"num_images_per_prompt": 0}, "at least 1, got 0"),
        ({"generator": seeded(1, 2, 3), "labels": [1, 2]}, "3 generators for 2 pictures"),
        ({"generator": seeded(1), "seeds": [1]}, "give one of the two"),
        (
            {"seeds": [1, 2, 3], "class_labels": [1, 2], "num_images_per_prompt": 2},
            "4 pictures are asked for, and noise for 3",
        ),
        ({"prompt": "a cat"}, "does not support captions"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            pipe(**wrong)


def test_a_guide_that_stays_behind_is_said(pixel_run, tmp_path, capsys):
    """On the screen and in the card; not where there is none."""
    state = load(pixel_run / "last.ckpt")
    state["ldm"]["config"]["sample"]["guide"] = {"run": None, "weights": "raw"}
    torch.save(state, tmp_path / "led.ckpt")
    line = "sampled with a guide (its raw weights), which no pipeline of diffusers has"
    for file, times in ((tmp_path / "led.ckpt", 1), (pixel_run, 0)):
        folder = export(str(file), str(tmp_path / f"out{times}"))
        said, card = capsys.readouterr().out, (folder / "README.md").read_text()
        assert said.count(line) == card.count(line) == times
        assert said.count("\n") == times and said.startswith("warning: export: ") == bool(times)
