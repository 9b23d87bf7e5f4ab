"""Sample from a checkpoint; no other flag and no other file is needed.

python sample.py --checkpoint checkpoints/digits-latent --output samples/digits
python sample.py --checkpoint checkpoints/digits-latent --output samples/sevens --label 7 \\
    --count 16 --guidance 2
python sample.py --checkpoint checkpoints/emoji-latent --output samples/hearts \\
    --prompt "a red heart" --guidance 3
python sample.py --checkpoint checkpoints/digits-latent --output samples/sde \\
    --solver EulerMaruyama --solver-option churn=0.5
python sample.py --checkpoint checkpoints/jets-gluon --output samples/jets --constituents 25 \\
    --count 10000
python sample.py --checkpoint checkpoints/digits-latent --output samples/filled --task inpaint \\
    --image I.png --mask M.png

Tasks are done by any checkpoint, or by one that is trained for the task; --image and --mask are
files or folders.
"""

import argparse
from typing import Any

from ldm.checkpoints.finding import find_checkpoint
from ldm.errors import command, guard
from ldm.scripts.flags import Parser, checkpoint, home, sampling
from ldm.tasks import TASKS, every_flag, every_method, without_task


def parse() -> argparse.Namespace:
    about = __doc__.replace("python sample.py", command("sample"))
    parser = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    checkpoint(parser)
    parser.add_argument(
        "--output",
        type=home,
        default="samples",
        metavar="DIR",
        help="a new folder (default: samples)",
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="samples (default: 64; 4 for each input of a task; all of FILE)",
    )
    _condition(parser)
    sampling(parser)
    parser.add_argument(
        "--interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide at these times alone, 0 = data",
    )
    parser.add_argument(
        "--rescale",
        type=float,
        metavar="PHI",
        help="0 ... 1: bring a guided sample's contrast back",
    )
    text = "draw N samples' way from data to noise and back: trajectory.png and .gif (default: 4)"
    parser.add_argument(
        "--trajectory", type=int, nargs="?", const=4, default=0, metavar="N", help=text
    )
    task_flags(parser)
    return parser.parse_args()


def _condition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--label", metavar="L", help="a class, by name or number (default: seed modulo classes)"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what to show (default: the checkpoint's own prompts in turn)",
    )
    parser.add_argument("--prompt-file", type=home, metavar="FILE", help="a prompt a line, in turn")
    text = "of every jet, or a JetNet file with the numbers (default: drawn as in training)"
    parser.add_argument("--constituents", type=home, metavar="N|FILE", help=text)
    text = "pt=GEV mass=GEV: given of every jet to a network trained with network.jet=2 "
    text += "(default: FILE's, or drawn as in training)"
    parser.add_argument("--jet", nargs="+", metavar="KEY=VALUE", help=text)


def task_flags(parser: argparse.ArgumentParser) -> None:
    """The tasks, their inputs and their options."""
    group = parser.add_argument_group("tasks")
    about = "; ".join(f"{task.name} {task.about}" for task in TASKS)
    group.add_argument("--task", choices=[task.name for task in TASKS], help=about)
    text = "a picture or a folder; given twice to interpolate"
    group.add_argument("--image", type=home, action="append", metavar="PATH", help=text)
    text = "inpaint: white where to paint; for a folder, one or a folder of them"
    group.add_argument("--mask", type=home, metavar="PATH", help=text)
    for flag, of in every_flag().items():
        text = f"{', '.join(of)}: {flag.help}" if of else flag.help
        text += f"; {every_method()}" * (flag.name == "method")
        if flag.switch:
            group.add_argument(flag.text, action="store_true", default=None, help=text)
        else:
            group.add_argument(flag.text, type=flag.kind, metavar=flag.metavar, help=text)


def main() -> None:
    sample_or_solve(vars(parse()))


def sample_or_solve(words: dict[str, Any]) -> None:
    """A task, or samples of a class, a caption or neither."""
    if words["task"] is not None:
        find_checkpoint(words["checkpoint"])
        from ldm.tasks.request import TaskRequest

        return TaskRequest.parse(words).run()
    without_task(words)
    find_checkpoint(words["checkpoint"])  # before the slow imports
    from ldm.sampling.run import SampleRequest, sample_to_folder

    sample_to_folder(SampleRequest.parse(words))


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
