"""Measure a checkpoint: samples against the real pictures, or stage 1's reconstructions against theirs.

python evaluate.py --checkpoint checkpoints/digits-latent
python evaluate.py --checkpoint checkpoints/fashion-latent --count 10000 --data-root DIR --features efficientnet-lite0
python evaluate.py --checkpoint checkpoints/fashion-autoencoder

Stage 2 and the pixel baseline: Fréchet and kernel distance (FID and KID with Inception's features), precision, recall,
density, coverage, and the share of samples that a classifier takes for their label. Stage 1: PSNR, SSIM, LPIPS, rFID.
"""

import argparse

from ldm.errors import command, guard


def parse() -> argparse.Namespace:
    about = __doc__.replace("python evaluate.py", command("evaluate"))
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", dest="path", required=True, metavar="PATH", help="a run's folder or a checkpoint file")
    parser.add_argument("--count", type=int, metavar="N", help="samples (default: 5000; stage 1: every picture of the split)")
    parser.add_argument(
        "--features",
        default="auto",
        metavar="NAME|FILE",
        help="auto, fashion, digits, efficientnet-lite0, inception, or a file of weights (default: the data's classifier)",
    )
    parser.add_argument(
        "--split", metavar="S", help="the real pictures: train (default, as is usual) or test (stage 1's default)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="where the data lie (default: where they lay in training)")
    parser.add_argument("--output", default="evaluations", metavar="DIR", help="records.jsonl there is appended to")
    parser.add_argument("--cache", metavar="DIR", help="of real pictures' features (default: ~/.cache/ldm)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seeds S ... S + N - 1, one a sample")
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
    return parser.parse_args()


def main() -> None:
    args = parse()
    from ldm.evaluation import run

    run(**vars(args))


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
