"""Two real processes (gloo) against one: the same weights after the same global batches."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, TINY, largest_difference, load, overrides, script

pytestmark = pytest.mark.ddp
VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16, patience: 3}"
GAN = "discriminator={weight: 0.5, warmup: 3, channels: 8, layers: 1}"


def trained(kind, output, *more):
    done = script("train.py", "--config", TINY / f"{kind}.yaml", *overrides(kind, output, *more))
    assert done.returncode == 0, done.stderr
    return load(output / f"tiny-{kind}" / "last.ckpt")


@pytest.mark.parametrize(
    "kind, more",
    [
        pytest.param("pixel", ("trainer.max_steps=20", "sample.count=5"), id="pixel"),
        pytest.param("pixel", ("trainer.max_steps=20", "task=Inpaint"), id="inpaint"),
        pytest.param("jets", ("trainer.max_steps=20", "sample.every=0", "sample.count=5"), id="jets"),
        pytest.param("autoencoder", ("trainer.max_steps=20",), id="autoencoder"),
        pytest.param("autoencoder", ("trainer.max_steps=20", GAN), id="gan"),
        pytest.param("autoencoder", ("trainer.max_steps=20", VQ), id="vq"),
    ],
)
def test_two_processes_equal_one_on_the_union_batch(tmp_path, kind, more):
    """20 steps of 2 x B on two processes; of B accumulated twice on one: noise, times and rows are the same."""
    two = trained(kind, tmp_path / "two", "trainer.devices=2", *more)
    one = trained(kind, tmp_path / "one", "trainer.accumulate=2", *more)
    assert two["global_step"] == one["global_step"] == 20
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-6
    assert largest_difference(two["ldm"]["ema"]["weights"], one["ldm"]["ema"]["weights"]) < 1e-6
    assert two["ldm"]["images_seen"] == one["ldm"]["images_seen"]
    pictures = [sorted(p.name for p in (tmp_path / n / f"tiny-{kind}" / "samples").iterdir()) for n in ("one", "two")]
    assert pictures[0] == pictures[1]


def test_latent_stage_on_two_processes(stage1, tmp_path):
    """Whitening measured by two ranks, each on its half, is what one measures; grids at fixed seeds are equal."""
    more = (f"space.autoencoder={stage1}", "trainer.max_steps=20")
    two = trained("latent", tmp_path / "two", "trainer.devices=2", *more)
    one = trained("latent", tmp_path / "one", "trainer.accumulate=2", *more)
    for name in ("space.mean", "space.std"):
        assert (two["state_dict"][name] - one["state_dict"][name]).abs().max() < 1e-6
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-6


def test_torchrun(tmp_path):
    """`torchrun --nproc-per-node 2 train.py`, as Lightning takes it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port()), "train.py"]
    more = overrides("pixel", tmp_path, "trainer.devices=2", "trainer.max_steps=4")
    done = subprocess.run(
        [*command, "--config", TINY / "pixel.yaml", *more], cwd=ROOT, capture_output=True, text=True, timeout=200, env=quiet()
    )
    assert done.returncode == 0, done.stderr
    state = load(tmp_path / "tiny-pixel" / "last.ckpt")
    assert state["global_step"] == 4 and state["ldm"]["images_seen"] == 4 * 2 * 16


def test_slurm_two_nodes(tmp_path):
    """srun's environment for two nodes with a task each, both on this machine."""
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "ldm", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1"}
    slurm |= {
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
    }
    more = overrides("pixel", tmp_path, "trainer.devices=1", "trainer.num_nodes=2", "trainer.max_steps=4")
    tasks = []
    for rank in "01":
        env = quiet() | slurm | {"SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": "0"}
        command = [sys.executable, "train.py", "--config", TINY / "pixel.yaml", *more]
        tasks.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [task.communicate(timeout=200)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert load(tmp_path / "tiny-pixel" / "last.ckpt")["ldm"]["images_seen"] == 4 * 2 * 16
    assert "2 devices" in said[0]


def quiet():
    return os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_process_that_dies_ends_the_whole_job(tmp_path):
    """kill -9 of rank 1: the job ends within a minute with a status that is not 0, and no process is left."""
    more = overrides(
        "pixel", tmp_path, "trainer.devices=2", "trainer.max_steps=100000", "sample.every=0", "trainer.validate=100000"
    )
    command = [sys.executable, "train.py", "--config", TINY / "pixel.yaml", *more]
    job = subprocess.Popen(
        command, cwd=ROOT, env=quiet(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    last, deadline = tmp_path / "tiny-pixel" / "last.ckpt", time.monotonic() + 90
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    (child,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    start = time.monotonic()
    try:
        job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode != 0 and time.monotonic() - start < 60
    assert load(last)["global_step"] > 0


def test_samples_do_not_depend_on_the_number_of_processes(pixel_run, tmp_path):
    """7 seeds on one process and on two, which share them 4 and 3: the same files, bit for bit, none lost or repeated."""
    for devices in (1, 2):
        more = ("--count", 7, "--seed", 3, "--steps", 5, "--solver", "DDPM", "--batch-size", 4, "--device", "cpu")
        done = script("sample.py", "--checkpoint", pixel_run, "--output", tmp_path / f"{devices}", "--devices", devices, *more)
        assert done.returncode == 0, done.stderr
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("1", "2"))
    assert one == two and len([name for name in one if name[0] == "0"]) == 7
