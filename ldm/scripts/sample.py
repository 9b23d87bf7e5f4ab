"""Sample from a checkpoint; no other flag and no other file is needed.

python sample.py --checkpoint checkpoints/digits-latent --output samples/digits
python sample.py --checkpoint checkpoints/digits-latent --output samples/sevens --label 7 --count 16 --guidance 2
python sample.py --checkpoint checkpoints/emoji-latent --output samples/hearts --prompt "a red heart" --guidance 3
python sample.py --checkpoint checkpoints/digits-latent --output samples/sde --solver EulerMaruyama --solver-option churn=0.5
python sample.py --checkpoint checkpoints/jets-gluon --output samples/jets --constituents 25 --count 10000
python sample.py --checkpoint checkpoints/digits-latent --output samples/filled --task inpaint --image I.png --mask M.png

Tasks: inpaint, super-resolve, denoise, edit, interpolate, by any checkpoint or one trained for one of the first two; --image and
--mask are files or folders.
"""

import argparse

from ldm.errors import command, guard
from ldm.scripts.flags import Parser, home, sampling


def parse() -> argparse.Namespace:
    about = __doc__.replace("python sample.py", command("sample"))
    parser = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint",
        type=home,
        required=True,
        metavar="PATH",
        help="a run's folder or a checkpoint file",
    )
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
    text = "pt=GEV mass=GEV: what a network trained with network.jet=2 is told of every jet (default: FILE's)"
    parser.add_argument("--jet", nargs="+", metavar="KEY=VALUE", help=text)
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
    task = parser.add_argument_group("tasks")
    task.add_argument(
        "--task", choices=["inpaint", "super-resolve", "denoise", "edit", "interpolate"]
    )
    task.add_argument(
        "--image",
        type=home,
        action="append",
        metavar="PATH",
        help="a picture or a folder; given twice to interpolate",
    )
    task.add_argument(
        "--mask",
        type=home,
        metavar="PATH",
        help="inpaint: white where to paint; for a folder, one or a folder of them",
    )
    task.add_argument(
        "--factor",
        type=int,
        metavar="F",
        help="super-resolve: times larger (default: 4, or the checkpoint's)",
    )
    task.add_argument(
        "--noise-std",
        type=float,
        metavar="S",
        help="denoise: of the range -1 ... 1 (default: estimated)",
    )
    task.add_argument(
        "--strength", type=float, metavar="T", help="edit: 0 keeps all, 1 nothing (default: 0.6)"
    )
    task.add_argument(
        "--method",
        metavar="M",
        help="guide, project, repaint, restore, blend, trained: see the README",
    )
    task.add_argument(
        "--resamples",
        type=int,
        metavar="N",
        help="repaint: times that a step is taken (default: 4)",
    )
    task.add_argument(
        "--degrade",
        action="store_true",
        default=None,
        help="make the input from --image, which is the truth",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    from ldm.tasks.run import run

    run(**vars(args))


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
