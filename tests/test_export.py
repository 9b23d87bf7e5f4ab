"""A checkpoint as a diffusers folder: stock diffusers' pictures are ours within a grey level."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

from ldm.diffusion.solvers import DDIM, DPMpp2M
from ldm.errors import Refusal
from ldm.export import export
from ldm.model import restore
from ldm.randomness import SampleNoise
from ldm.sampling import generate, settings_from

SEEDS, LABELS = [3, 4, 5, 6], [1, 7, 0, 9]


def pictures(pipe, model, steps, guidance):
    """Stock diffusers from the noise that sample.py starts with, at the first time's alpha_t = 0 within 1e-2."""
    noise = SampleNoise(SEEDS, model.space.shape, "cpu")()
    _, sigma = model.denoiser.schedule(torch.tensor(1.0))
    pipe.set_progress_bar_config(disable=True)
    out = pipe(labels=LABELS, latents=sigma * noise, steps=steps, guidance=guidance, output_type="np").images
    return np.round(255 * np.asarray(out)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ["pixel_run", "latent_run"])
def test_diffusers_draws_what_we_draw(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    folder, model = export(str(run), str(tmp_path / "out")), restore(run)
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    stock = {DDIM: pipe.scheduler.__class__, DPMpp2M: DPMSolverMultistepScheduler}
    for solver, scheduler in stock.items():
        options = {} if solver is DDIM else {"final_sigmas_type": "zero", "lower_order_final": True}
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
        given = dict(solver=solver.__name__, eta=None, steps=20, guidance=2.0, batch_size=4, grid="uniform")
        ours = generate(model, settings_from(model.settings, **given), SEEDS, LABELS).numpy()
        difference = np.abs(pictures(pipe, model, 20, 2.0) - ours)
        assert ours.std() > 10 and difference.max() <= 1


def test_the_command_and_what_it_refuses(pixel_run, tmp_path):
    command = [sys.executable, "-m", "ldm.export", "--checkpoint", str(pixel_run), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "exported to" in done.stdout, done.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 2 and "is there already" in again.stderr and "Traceback" not in again.stderr
    assert DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)(seeds=[0], steps=2).images[0].size == (
        8,
        8,
    )
    model = restore(pixel_run)
    model.denoiser.schedule = type("Other", (), {})()
    from ldm.export import expect_exportable

    with pytest.raises(Refusal, match=r"want alpha\^2 \+ sigma\^2 = 1, not Other"):
        expect_exportable(model)
