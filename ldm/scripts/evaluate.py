"""Measure a checkpoint: samples, or stage 1's reconstructions, against the real data.

python evaluate.py --checkpoint checkpoints/digits-latent
python evaluate.py --checkpoint checkpoints/fashion-latent --count 10000 --data-root DIR
python evaluate.py --checkpoint checkpoints/fashion-latent --features efficientnet-lite0
python evaluate.py --checkpoint checkpoints/fashion-autoencoder
python evaluate.py --checkpoint checkpoints/fashion-latent --data-root DIR --copies
python evaluate.py --samples MINE.hdf5 --reference THEIRS.hdf5
python evaluate.py --samples DIR --reference DIR --features inception

Stage 2 and the pixel baseline: Fréchet and kernel distance (FID and KID with Inception's features),
precision, recall, density, coverage, and the share of samples that a classifier takes for their
label. Stage 1: PSNR, SSIM, LPIPS, rFID.
"""

import argparse

from ldm.checkpoints.finding import find_checkpoint
from ldm.errors import command, guard
from ldm.scripts.flags import Parser, checkpoint, home, sampling


def parse() -> argparse.Namespace:
    about = __doc__.replace("python evaluate.py", command("evaluate"))
    parser = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    checkpoint(parser, required=False)
    _files(parser)
    text = "samples (default: 5000; stage 1: every picture of the split)"
    parser.add_argument("--count", type=int, metavar="N", help=text)
    _real_side(parser)
    text = (
        "some of them, with commas between: fd,kd,precision,... of samples, psnr,ssim,lpips,fd of "
        "stage 1, w1m,fpd,... of jets"
    )
    parser.add_argument("--metrics", metavar="A,B", help=text)
    text = (
        "pictures: also whether samples are copies: nearer to training pictures than held-out "
        "pictures are; a panel of the closest pairs"
    )
    parser.add_argument("--copies", action="store_true", help=text)
    text = (
        "jets: cut |eta| and |phi| to it before they are compared, and say how many were "
        "(default: as they are, as JetNet)"
    )
    parser.add_argument("--clip", type=float, metavar="ANGLE", help=text)
    sampling(parser)
    return parser.parse_args()


def _files(parser: argparse.ArgumentParser) -> None:
    """Samples that are there already."""
    text = "instead of a checkpoint: a file of jets (JetNet's layout) or a folder of pictures"
    parser.add_argument("--samples", type=home, metavar="FILE|DIR", help=text)
    text = "what --samples are compared with: another such file, or folder"
    parser.add_argument("--reference", type=home, metavar="FILE|DIR", help=text)
    text = "px to which the pictures of both folders are brought (default: as they are)"
    parser.add_argument("--size", type=int, metavar="N", help=text)


def _real_side(parser: argparse.ArgumentParser) -> None:
    text = "auto, fashion, digits, efficientnet-lite0, inception, or a file of weights (default: "
    text += "the data's classifier)"
    parser.add_argument("--features", type=home, default="auto", metavar="NAME|FILE", help=text)
    text = "the real pictures: train (default, as is usual) or test (stage 1's default)"
    parser.add_argument("--split", metavar="S", help=text)
    text = "where the data lie (default: where they lay in training)"
    parser.add_argument("--data-root", type=home, metavar="DIR", help=text)
    text = "records.jsonl there is appended to"
    parser.add_argument("--output", type=home, default="evaluations", metavar="DIR", help=text)
    text = "of real pictures' features (default: ~/.cache/ldm)"
    parser.add_argument("--cache", type=home, metavar="DIR", help=text)


def main() -> None:
    words = vars(parse())
    from ldm.evaluation.which import asks_for_files

    if asks_for_files(words):  # slow imports only once the arguments are right
        from ldm.evaluation.files import FilesRequest, evaluate_files

        evaluate_files(FilesRequest.parse(words))
        return
    find_checkpoint(words["checkpoint"])
    from ldm.evaluation.requests import EvaluationRequest
    from ldm.evaluation.run import evaluate_checkpoint

    evaluate_checkpoint(EvaluationRequest.parse(words))


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
