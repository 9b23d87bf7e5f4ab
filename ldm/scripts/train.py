"""Train an autoencoder, a latent denoiser or the pixel baseline.

python train.py --config configs/digits/latent.yaml                   # stage 1 first, if missing
python train.py --config configs/fashion/pixel.yaml data.root=DIR     # key=value overrides the file
python train.py --config configs/fashion/latent.yaml --resume         # go on after a stop
python train.py --config configs/fashion/latent.yaml trainer.devices=8 # eight GPUs
"""

import argparse

from ldm.errors import command, guard
from ldm.scripts.flags import Parser
from ldm.system.stops import catch_stops


def parse() -> argparse.Namespace:
    about = __doc__.replace("python train.py", command("train"))
    parser = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = (
        "a YAML file of yours; where there is none, the one that ldm ships: digits/latent.yaml, "
        "configs/digits/latent.yaml"
    )
    parser.add_argument("--config", required=True, metavar="FILE", help=text)
    parser.add_argument("--resume", action="store_true", help="go on from the run's last.ckpt")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, print the plan, train nothing"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings over the file's"
    )
    args, unknown = parser.parse_known_intermixed_args()
    if unknown:
        dashed = [word for word in unknown if "=" in word or "." in word]
        setting = dashed[0].lstrip("-") + "=VALUE" * ("=" not in dashed[0]) if dashed else ""
        why = f"settings have no dashes: {setting}"
        parser.error(why if dashed else f"unrecognized arguments: {' '.join(unknown)}")
    return args


def main() -> None:
    args = parse()
    with catch_stops():
        from ldm import config  # slow imports only once the arguments are right

        run = config.load(args.config, args.overrides)
        from ldm.training.run import train_run

        train_run(run, args.resume, args.dry_run, for_cpu=config.made_for_cpu(args.config))


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
