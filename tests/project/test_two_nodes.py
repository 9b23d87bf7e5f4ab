"""docs/train.sbatch and the page's torchrun command as two nodes run them, both on this machine."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from docs_place import quiet
from helpers import ROOT, load
from pages import EVERY

SRUN = """#!/bin/bash
# what SLURM's srun gives every task of a job, all of them on this machine
tasks=$((SLURM_NNODES * SLURM_NTASKS_PER_NODE)); pids=()
export SLURM_NTASKS=$tasks SLURM_STEP_NODELIST=127.0.0.1 MASTER_ADDR=127.0.0.1
for ((rank = 0; rank < tasks; rank++)); do
    SLURM_PROCID=$rank SLURM_NODEID=$((rank / SLURM_NTASKS_PER_NODE)) SLURM_LOCALID=$((rank % SLURM_NTASKS_PER_NODE)) "$@" &
    pids+=($!); echo $! >> pids
done
worst=0
for pid in "${pids[@]}"; do wait "$pid"; status=$?; [ $status -gt $worst ] && worst=$status; done
exit $worst
"""


@pytest.fixture
def cluster(tmp_path):
    """A folder whose `bin` has srun, scontrol and python, and the environment of a job of two nodes
    with a task each.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "scontrol").write_text('#!/bin/bash\necho "$@" >> asked\n')
    (tools / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (tools / "torchrun").write_text(
        f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    )
    for tool in ("srun", "scontrol", "torchrun", "python"):
        (tools / tool).chmod(0o755)
    for name in ("train.py", "docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "ldm", "SLURM_NNODES": "2", "SLURM_NTASKS": "2"}
    slurm |= {
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    return tmp_path, quiet() | slurm


TINY = (
    "tests/configs/pixel.yaml",
    "logger.mode=disabled",
    "trainer.accelerator=cpu",
    "sample.every=0",
)


@pytest.mark.ddp
@pytest.mark.slow
def test_the_batch_file_under_two_nodes(cluster):
    """docs/train.sbatch as bash runs it: warned by SIGUSR1 it saves and asks to be queued again;
    then it goes on to its end.
    """
    folder, env = cluster
    command = [
        "bash",
        "docs/train.sbatch",
        *TINY,
        "trainer.max_steps=100000",
        "trainer.validate=100000",
    ]
    job = subprocess.Popen(
        command,
        cwd=folder,
        env=env | {"MASTER_PORT": "29611"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    last, deadline = folder / "checkpoints" / "tiny-pixel" / "last.ckpt", time.monotonic() + 120
    while not last.exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.3)
    assert last.exists(), job.communicate(timeout=120)[0].decode()
    for pid in (folder / "pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    said = job.communicate(timeout=120)[0].decode()
    assert job.returncode == 138 and (folder / "asked").read_text() == "requeue 7\n", said
    reached = load(last)["global_step"]
    more = [f"trainer.max_steps={reached + 4}", "trainer.validate=100000"]
    done = subprocess.run(
        ["bash", "docs/train.sbatch", *TINY, *more],
        cwd=folder,
        env=env | {"MASTER_PORT": "29612"},
        timeout=200,
    )
    state = load(last)
    assert (
        done.returncode == 0
        and state["global_step"] == reached + 4
        and (folder / "asked").read_text() == "requeue 7\n"
    )
    assert (
        state["ldm"]["images_seen"] == (reached + 4) * 2 * 16
    )  # two tasks, each a batch of its own


@pytest.mark.ddp
@pytest.mark.slow
def test_two_nodes_by_torchrun(cluster):
    """The page's command on each of two nodes, a process each, both on this machine."""
    folder, env = cluster
    (command,) = [c.text for c in EVERY if c.starts("torchrun --nnodes")]
    for old, new in (
        ("HOST", "127.0.0.1"),
        ("29500", "29613"),
        ("node 8", "node 1"),
        ("devices=8", "devices=1"),
    ):
        assert old in command
        command = command.replace(old, new)
    command = command.replace(
        "configs/fashion/latent.yaml", " ".join([*TINY, "trainer.max_steps=4"])
    )
    env = {key: value for key, value in env.items() if not key.startswith("SLURM")}
    nodes = [
        subprocess.Popen(shlex.split(command.replace("rank 0", f"rank {n}")), cwd=folder, env=env)
        for n in "01"
    ]
    assert [node.wait(timeout=200) for node in nodes] == [0, 0]
    assert (
        load(folder / "checkpoints" / "tiny-pixel" / "last.ckpt")["ldm"]["images_seen"]
        == 4 * 2 * 16
    )
