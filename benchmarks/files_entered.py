"""How far a reader walks: the files of ldm whose functions are entered by one job of each kind.

python -m benchmarks.files_entered [--list]

A sample and an in-painting of checkpoints/fashion-latent, an evaluation of checkpoints/jets-gluon,
and one training step of tests/configs/pixel.yaml (its second, from batch to batch). Module bodies
do not count: imports are free.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch
from PIL import Image

from ldm.scripts.flags import Parser

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "gluon30_400.hdf5"


class Walk:
    """The files entered while it is on, in the order of the first entry."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.room = str(ROOT / "ldm")

    def _enter(self, frame: object, event: str, _: object) -> None:
        code = frame.f_code
        inside = code.co_filename.startswith(self.room) and code.co_name != "<module>"
        if event == "call" and inside:
            self.files.setdefault(code.co_filename.removeprefix(f"{self.room}/"))

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Inside, every call is seen, in further threads too."""
        threading.setprofile(self._enter)
        sys.setprofile(self._enter)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def script(name: str, *arguments: str) -> list[str]:
    """Files entered by one run of a script, in this process; what it imports is imported before."""
    module = __import__(f"ldm.scripts.{name}", fromlist=["main"])
    walk = Walk()
    for attempt in ("imports", "counted"):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            sys.argv = [f"{name}.py", *(word.replace("OUT", folder) for word in arguments)]
            with walk.on() if attempt == "counted" else contextlib.nullcontext():
                module.main()
    return list(walk.files)


def inpainting() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        image, mask = Path(folder, "image.png"), Path(folder, "mask.png")
        Image.new("L", (28, 28), 90).save(image)
        hole = Image.new("L", (28, 28), 0)
        hole.paste(255, (8, 8, 20, 20))
        hole.save(mask)
        more = ("--task", "inpaint", "--image", str(image), "--mask", str(mask))
        return script("sample", *SAMPLE, *more)


class OneStep(pl.Callback):
    """Counts from the start of the second step to the start of the third."""

    def __init__(self) -> None:
        self.walk, self.inside = Walk(), contextlib.ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 1:
            self.inside.enter_context(self.walk.on())

    def on_before_zero_grad(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            self.inside.close()


def training_step() -> list[str]:
    """Files entered by one step of a run: the module, its parts, and what Lightning calls of ours."""
    from ldm import config
    from ldm.training import run as runs

    step, build = OneStep(), runs.build_trainer
    with tempfile.TemporaryDirectory() as folder:
        given = [
            f"output={folder}",
            "trainer.max_steps=4",
            "logger.kind=csv",
            "trainer.accelerator=cpu",
        ]
        run = config.load(ROOT / "tests" / "configs" / "pixel.yaml", given)

        def watched(*args: object, **kwargs: object) -> pl.Trainer:
            trainer = build(*args, **kwargs)
            trainer.callbacks.insert(0, step)
            return trainer

        runs.build_trainer = watched
        with contextlib.redirect_stdout(io.StringIO()):
            runs.train_run(run)
        runs.build_trainer = build
    return list(step.walk.files)


SAMPLE = ("--checkpoint", str(ROOT / "checkpoints" / "fashion-latent"), "--output", "OUT/samples")
SAMPLE += ("--count", "1", "--steps", "2", "--device", "cpu")
JETS = ("--checkpoint", str(ROOT / "checkpoints" / "jets-gluon"), "--output", "OUT/records.jsonl")
JETS += (
    "--data-root",
    str(FIXTURE),
    "--count",
    "20",
    "--steps",
    "2",
    "--metrics",
    "w1m",
    "--device",
    "cpu",
)
JOBS: dict[str, Callable[[], list[str]]] = {
    "one sample": lambda: script("sample", *SAMPLE),
    "one --task inpaint": inpainting,
    "one jets evaluation": lambda: script("evaluate", *JETS),
    "one training step": training_step,
}


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="the files too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, job in JOBS.items():
        files = job()
        print(f"{name:22} {len(files)} files" + (f": {', '.join(files)}" if args.list else ""))


if __name__ == "__main__":
    main()
