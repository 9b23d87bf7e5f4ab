"""A page in the browser for a checkpoint: live samples, tasks with a drawn mask, jets.

python -m ldm.demo --checkpoint checkpoints/fashion-latent
python -m ldm.demo --checkpoint checkpoints/jets-gluon --port 8000 --max-count 1000

It is served to this machine alone; --host 0.0.0.0 serves it to everyone who can reach this one.
"""

import argparse

from ldm.checkpoints.finding import find_checkpoint
from ldm.errors import guard
from ldm.scripts.flags import Parser, checkpoint, home


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m ldm.demo", description=__doc__, formatter_class=formatter)
    checkpoint(parser)
    parser.add_argument(
        "--weights", metavar="W", default="ema", help="as of sample.py (default: ema)"
    )
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="the address to listen at (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="default: the first free one from 7860"
    )
    parser.add_argument(
        "--data-root",
        type=home,
        metavar="PATH",
        help="jets: real ones to show behind the generated ones "
        "(default: spectra.json beside the checkpoint)",
    )
    _limits(parser)
    return parser.parse_args()


def _limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("what a visitor may ask for")
    limits.add_argument(
        "--max-count",
        type=int,
        metavar="N",
        help="samples at once (default: 16 pictures, 500 jets)",
    )
    limits.add_argument("--max-steps", type=int, default=250, metavar="N", help="default: 250")
    limits.add_argument(
        "--max-seconds", type=int, default=300, metavar="S", help="of one click (default: 300)"
    )
    limits.add_argument(
        "--max-upload", type=int, default=8, metavar="MB", help="of one picture (default: 8)"
    )


def main() -> None:
    words = vars(parse())
    find_checkpoint(words["checkpoint"])
    from ldm.demo.server import (  # slow imports only once the arguments are right
        DemoRequest,
        serve_page,
    )

    serve_page(DemoRequest.parse(words))


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
