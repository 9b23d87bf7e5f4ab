"""A checkpoint as a diffusers folder: stock diffusers' pictures are ours within a grey level."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from helpers import run_config

from ldm.diffusion.solvers import DDIM, DPMpp2M, sample, start
from ldm.errors import Refusal
from ldm.export import expect_exportable, export, whitened
from ldm.model import restore
from ldm.randomness import SampleNoise
from ldm.sampling import generate, settings_from
from ldm.training.run import train

SEEDS, LABELS, PROMPTS = [3, 4, 5, 6], [1, 7, 0, 9], ["red", "blue", "", "green"]
STOCK = {DDIM: {}, DPMpp2M: {"final_sigmas_type": "zero", "lower_order_final": True}}


def with_scheduler(pipe, solver):
    scheduler = type(pipe.scheduler) if solver is DDIM else DPMSolverMultistepScheduler
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **STOCK[solver])
    pipe.set_progress_bar_config(disable=True)


def grey(pictures):
    return np.round(255 * np.asarray(pictures)).transpose(0, 3, 1, 2)


def pictures(pipe, model, steps, **told):
    """Stock diffusers from the noise that sample.py starts with, at the first time's alpha_t = 0 within 1e-2."""
    noise = SampleNoise(SEEDS, model.space.shape, "cpu")()
    _, sigma = model.denoiser.schedule(torch.tensor(1.0))
    return grey(pipe(latents=sigma * noise, steps=steps, output_type="np", **told).images)


@pytest.mark.parametrize("kind", ["pixel_run", "latent_run", "text_run"])
def test_diffusers_draws_what_we_draw(kind, request, tmp_path):
    """Classes and captions, guided; the mean and std of latents and the time are folded into the weights."""
    run = request.getfixturevalue(kind)
    folder, model = export(str(run), str(tmp_path / "out")), restore(run)
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    told = {"prompts": PROMPTS} if model.text else {"labels": LABELS}
    for solver in STOCK:
        with_scheduler(pipe, solver)
        given = dict(solver=solver.__name__, eta=None, steps=20, guidance=2.0, batch_size=4, grid="uniform")
        ours = generate(model, settings_from(model.settings, **given), SEEDS, **told).numpy()
        theirs = pictures(pipe, model, 20, guidance=2.0, **told)
        assert ours.std() > 10 and np.abs(theirs - ours).max() <= 1
        others = pictures(pipe, model, 20, guidance=1.0, **told)
        assert np.abs(theirs - others).max() > 1  # guidance does something


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_a_model_of_nothing_is_a_stock_pipeline(kind, stage1, tmp_path):
    """No code in the folder: DDIMPipeline, LDMPipeline."""
    more = [f"space.autoencoder={stage1}"] if kind == "latent" else []
    run = train(run_config(kind, tmp_path, "condition=none", *more))
    folder, model = export(str(run), str(tmp_path / "out")), restore(run)
    assert not list(folder.rglob("*.py"))
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert type(pipe).__name__ == {"pixel": "DDIMPipeline", "latent": "LDMPipeline"}[kind]
    x = randn_tensor((4, *model.space.shape), generator=torch.Generator().manual_seed(5))
    for solver in STOCK if kind == "latent" else [DDIM]:  # DDIMPipeline has no scheduler but DDIM
        with_scheduler(pipe, solver)
        asked = dict(batch_size=4, num_inference_steps=20, output_type="np", generator=torch.Generator().manual_seed(5))
        theirs = grey(pipe(**asked).images)
        with torch.inference_mode():
            ours = model.space.finish(draw(model, solver(), x), {}).numpy()
        assert ours.std() > 10 and np.abs(theirs - ours).max() <= 1


def draw(model, solver, noise, steps=20):
    schedule = model.denoiser.schedule
    times = schedule.grid(steps, "uniform")
    return sample(solver.bind(schedule, times), model.denoiser, start(schedule, times[0], noise), times, None)


def test_the_whitened_autoencoder_goes_both_ways(latent_run):
    model = restore(latent_run)
    space, image = model.space, torch.rand(4, 1, 8, 8) * 2 - 1
    net = whitened(space.autoencoder.net, space.mean, space.std)
    before, after = space.autoencoder.net.encode(image).latent_dist, net.encode(image).latent_dist
    shift, scale = space.mean[:, None, None], space.std[:, None, None]
    assert torch.allclose(after.mean, (before.mean - shift) / scale, atol=1e-5)
    assert torch.allclose(after.std, before.std / scale, rtol=1e-4)
    assert torch.allclose(net.decode(after.mean).sample, space.autoencoder.net.decode(before.mean).sample, atol=1e-5)


def test_the_command_and_what_it_refuses(pixel_run, tmp_path):
    command = [sys.executable, "-m", "ldm.export", "--checkpoint", str(pixel_run), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "exported to" in done.stdout, done.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 2 and "is there already" in again.stderr and "Traceback" not in again.stderr
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
    model.denoiser.schedule = type("Other", (), {})()
    with pytest.raises(Refusal, match=r"want alpha\^2 \+ sigma\^2 = 1, not Other"):
        expect_exportable(model)
