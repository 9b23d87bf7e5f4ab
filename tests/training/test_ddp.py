"""Two real processes (gloo) against one: the same weights after the same global batches."""

import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, TINY, here, inspect, largest_difference, load, overrides
from processes import children, ended, port, start, wait_for

pytestmark = pytest.mark.ddp
VQ = "network={name: VQModel, channels: [8, 16], latent_channels: 2, codes: 16, patience: 3}"
DROPOUT = "network={channels: [8, 16], layers: 1, dropout: 0.3, checkpointing: true}"
FIGURES = "evaluate={every: 20, count: 40, features: digits}"
GAN = "discriminator={weight: 0.5, warmup: 3, channels: 8, layers: 1}"


def trained(call, kind, output, *more):
    done = call("train.py", "--config", TINY / f"{kind}.yaml", *overrides(kind, output, *more))
    assert done.returncode == 0, done.stderr
    return load(output / f"tiny-{kind}" / "last.ckpt")


@pytest.mark.parametrize(
    "kind, more",
    [
        pytest.param("pixel", ("trainer.max_steps=20", "sample.count=5"), id="pixel"),
        pytest.param("pixel", ("trainer.max_steps=20", "task=Inpaint"), id="inpaint"),
        pytest.param("pixel", ("trainer.max_steps=20", DROPOUT, FIGURES), id="dropout"),
        pytest.param(
            "jets",
            ("trainer.max_steps=20", "sample.every=0", "sample.count=5", "network.jet=2"),
            id="jets",
        ),
        pytest.param("autoencoder", ("trainer.max_steps=20",), id="autoencoder"),
        pytest.param("autoencoder", ("trainer.max_steps=20", GAN), id="gan"),
        pytest.param("autoencoder", ("trainer.max_steps=20", VQ), id="vq"),
    ],
)
def test_two_processes_equal_one_on_the_union_batch(pair, tmp_path, kind, more):
    """20 steps of 2 x B on two processes; of B accumulated twice on one: noise, times and rows are
    the same.
    """
    two = trained(pair, kind, tmp_path / "two", "trainer.devices=2", *more)
    one = trained(here, kind, tmp_path / "one", "trainer.accumulate=2", *more)
    assert two["global_step"] == one["global_step"] == 20
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-6
    assert largest_difference(two["ldm"]["ema"]["weights"], one["ldm"]["ema"]["weights"]) < 1e-6
    assert two["ldm"]["images_seen"] == one["ldm"]["images_seen"]
    pictures = [
        sorted(p.name for p in (tmp_path / n / f"tiny-{kind}" / "samples").iterdir())
        for n in ("one", "two")
    ]
    assert pictures[0] == pictures[1]


def test_latent_stage_on_two_processes(pair, stage1, tmp_path):
    """Whitening measured by two ranks, each on its half, is what one measures; grids at fixed seeds
    are equal.
    """
    more = (f"space.autoencoder={stage1}", "trainer.max_steps=20")
    two = trained(pair, "latent", tmp_path / "two", "trainer.devices=2", *more)
    one = trained(here, "latent", tmp_path / "one", "trainer.accumulate=2", *more)
    for name in ("space.mean", "space.std"):
        assert (two["state_dict"][name] - one["state_dict"][name]).abs().max() < 1e-6
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-6


def test_torchrun(tmp_path):
    """`torchrun --nproc-per-node 2 train.py`, as Lightning takes it."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port()),
        "train.py",
    ]
    more = overrides("pixel", tmp_path, "trainer.devices=2", "trainer.max_steps=4")
    done = subprocess.run(
        [*command, "--config", TINY / "pixel.yaml", *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env=quiet(),
    )
    assert done.returncode == 0, done.stderr
    state = load(tmp_path / "tiny-pixel" / "last.ckpt")
    assert state["global_step"] == 4 and state["ldm"]["images_seen"] == 4 * 2 * 16


def test_slurm_two_nodes(tmp_path):
    """srun's environment for two nodes with a task each, both on this machine."""
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "ldm",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
    }
    slurm |= {
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
    }
    more = overrides(
        "pixel", tmp_path, "trainer.devices=1", "trainer.num_nodes=2", "trainer.max_steps=4"
    )
    tasks = []
    for rank in "01":
        env = quiet() | slurm | {"SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": "0"}
        command = [sys.executable, "train.py", "--config", TINY / "pixel.yaml", *more]
        tasks.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [task.communicate(timeout=200)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert load(tmp_path / "tiny-pixel" / "last.ckpt")["ldm"]["images_seen"] == 4 * 2 * 16
    assert "2 devices" in said[0]


def quiet():
    return os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


LONG = (
    "trainer.devices=2",
    "trainer.max_steps=100000",
    "sample.every=100000",
    "trainer.validate=100000",
    "trainer.save=3",
)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_whole_job(tmp_path, rank):
    """kill -9 of one of two: the other ends with one line, status 2, and no process is left."""
    job = start("pixel", tmp_path, *LONG)
    last = tmp_path / "tiny-pixel" / "last.ckpt"
    wait_for(lambda: last.exists() or job.poll() is not None)
    (child,) = children(job.pid)
    os.kill(child if rank else job.pid, signal.SIGKILL)
    try:
        said = job.communicate(timeout=60)[1]  # the pipe's end is that of both
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    lines = [line for line in said.splitlines() if "error" in line]
    assert job.returncode == (2 if rank else -signal.SIGKILL) and "Traceback" not in said, said
    assert len(lines) == 1 and re.search(
        "one of the 2 processes of the run was lost at step .*--resume", lines[0]
    ), said
    assert load(last)["global_step"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_of_two_processes_loses_nothing(tmp_path, number):
    """With workers, and W&B, whose end the first process waits for when the other has long gone."""
    job = start("pixel", tmp_path, *LONG, "data.workers=1", "logger.mode=offline")
    last = tmp_path / "tiny-pixel" / "last.ckpt"
    wait_for(lambda: last.exists() or job.poll() is not None)
    os.killpg(job.pid, number)
    line = ended(job, number, "stopped at step")
    assert f"stopped at step {load(last)['global_step']} " in line
    (end,) = [
        record["exit"] for record in inspect(tmp_path / "tiny-pixel")[1] if record["type"] == "exit"
    ]
    assert end["exit_code"] == 128 + number


def test_a_process_that_hangs_because_another_was_lost_is_ended(capsys):
    """Where no exchange fails: the thread that watches the others says it, and ends this one."""
    from types import SimpleNamespace

    from ldm.training import partners

    killed, left = [], []
    trainer = SimpleNamespace(
        global_step=7,
        world_size=2,
        strategy=SimpleNamespace(launcher=SimpleNamespace(kill=killed.append)),
    )
    watch = partners.Partners()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partners, "PATIENCE", 0.01)
        watch.lost(trainer, left.append)
    assert (
        left == [2] and killed == [9] and capsys.readouterr().err.count("was lost at step 7") == 1
    )
    watch.on_exception(trainer, None, RuntimeError())
    watch.lost(trainer, left.append)
    assert left == [2]


def test_samples_do_not_depend_on_the_number_of_processes(pair, pixel_run, tmp_path):
    """7 seeds on one process and on two, which share them 4 and 3: the same files, bit for bit,
    none lost or repeated.
    """
    for devices in (1, 2):
        more = (
            "--count",
            7,
            "--seed",
            3,
            "--steps",
            5,
            "--solver",
            "DDPM",
            "--batch-size",
            4,
            "--device",
            "cpu",
        )
        done = (here if devices == 1 else pair)(
            "sample.py",
            "--checkpoint",
            pixel_run,
            "--output",
            tmp_path / f"{devices}",
            "--devices",
            devices,
            *more,
        )
        assert done.returncode == 0, done.stderr
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("1", "2"))
    assert one == two and len([name for name in one if name[0] == "0"]) == 7
