"""Flags that several scripts have in common."""

import argparse
import os
import re
import sys
from typing import Any, NoReturn

from ldm.checkpoints.finding import find_checkpoint

home = os.path.expanduser  # of a path behind `--flag=`, where no shell has filled in the `~`


class Parser(argparse.ArgumentParser):
    """Argparse, whose errors are one line as all others are, and whose flags are written out.

    By itself it takes `--resum` for `--resume`, and would start what was not asked for.
    """

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        from ldm.errors import nearest, printable

        if found := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            message += nearest(found[1], self._option_string_actions)
        print(
            f"error: {printable(' '.join(message.split()))[:2000]} (--help lists all)",
            file=sys.stderr,
        )
        self.exit(2)


def checkpoint(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Which model."""
    text = "a run's folder or a checkpoint file"
    parser.add_argument("--checkpoint", type=home, required=required, metavar="PATH", help=text)


def sampling(parser: argparse.ArgumentParser) -> None:
    """How samples are made, over the checkpoint's own settings."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seeds S ... S + N - 1, one a sample"
    )
    parser.add_argument(
        "--solver", metavar="NAME", help="DDIM, Heun, EulerMaruyama, ... (default: the config's)"
    )
    parser.add_argument(
        "--solver-option",
        action="append",
        metavar="KEY=VALUE",
        help="a field of the solver: churn=0.5",
    )
    parser.add_argument(
        "--eta", type=float, help="short for --solver-option eta=..., DDIM's stochasticity"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="of the solver (default: the config's sample.steps)"
    )
    parser.add_argument(
        "--grid",
        metavar="G",
        help="times: uniform, angle, log_snr, karras; for Discrete also trailing, leading",
    )
    parser.add_argument(
        "--guidance", type=float, metavar="W", help="1: the plain conditional model"
    )
    text = "guide away from a worse model, not the null condition: a run's folder, or weights of "
    text += "this run: ema:0.9, raw (none: as without)"
    parser.add_argument("--guide", type=home, metavar="RUN|W", help=text)
    parser.add_argument(
        "--weights",
        metavar="W",
        default="ema",
        help="ema, raw, ema:DECAY, or ema:0.05: any width, post-hoc",
    )
    text = "samples at once: fewer take less memory (default: the config's sample.batch_size)"
    parser.add_argument("--batch-size", type=int, metavar="B", help=text)
    _place(parser)


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="P",
        help="32-true, bf16, or auto: bf16 for samples of pictures on a GPU, else 32-true",
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compile the network (default: on a GPU, where there are thousands of calls)",
    )
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="processes a node that share the seeds (default: 1)",
    )


def to_folder(program: str, about: str, output: str) -> argparse.Namespace:
    """The arguments of a command that makes a folder of a checkpoint."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=f"python -m {program}", description=about, formatter_class=formatter)
    checkpoint(parser)
    parser.add_argument("--output", type=home, required=True, metavar="DIR", help=output)
    parser.add_argument(
        "--weights", metavar="W", default="ema", help="as of sample.py (default: ema)"
    )
    args = parser.parse_args()
    find_checkpoint(args.checkpoint)
    return args
