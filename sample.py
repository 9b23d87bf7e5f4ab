"""Sample from a checkpoint; no other flag and no other file is needed.

python sample.py --checkpoint checkpoints/digits-latent --output samples/digits
python sample.py --checkpoint checkpoints/digits-latent --output samples/sevens --label 7 --count 16 --guidance 2
python sample.py --checkpoint checkpoints/digits-latent --output samples/sde --solver EulerMaruyama --solver-option churn=0.5
python sample.py --checkpoint checkpoints/jets-gluon --output samples/jets --constituents 25 --count 10000
"""

import argparse


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a run's folder or a checkpoint file")
    parser.add_argument("--output", default="samples", metavar="DIR", help="a new folder (default: samples)")
    parser.add_argument("--count", type=int, metavar="N", help="(default: 64, or as many as --constituents FILE has)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seeds S ... S + N - 1, one a sample")
    parser.add_argument("--label", metavar="L", help="a class, by name or number (default: seed modulo classes)")
    text = "of every jet, or a JetNet file with the numbers (default: drawn as in training)"
    parser.add_argument("--constituents", metavar="N|FILE", help=text)
    parser.add_argument("--solver", metavar="NAME", help="DDIM, Heun, EulerMaruyama, ... (default: the config's)")
    parser.add_argument("--solver-option", action="append", metavar="KEY=VALUE", help="a field of the solver: churn=0.5")
    parser.add_argument("--eta", type=float, help="short for --solver-option eta=..., DDIM's stochasticity")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--grid", metavar="G", help="times: uniform, log_snr, karras; for Discrete also trailing, leading")
    parser.add_argument("--guidance", type=float, metavar="W", help="1: the plain conditional model")
    parser.add_argument("--weights", metavar="W", default="ema", help="ema, raw, ema:DECAY, or ema:0.05: any width, post-hoc")
    parser.add_argument("--batch-size", type=int, metavar="B")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="processes a node that share the seeds (default: 1)")
    text = "draw N samples' way from data to noise and back: trajectory.png and .gif (default: 4)"
    parser.add_argument("--trajectory", type=int, nargs="?", const=4, default=0, metavar="N", help=text)
    return parser.parse_args()


def main() -> None:
    args = parse()
    from ldm.sampling import run

    run(**vars(args))


if __name__ == "__main__":
    from ldm.errors import guard

    guard(main)
