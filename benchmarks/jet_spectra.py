"""Spectra of the real jets that a checkpoint was trained on, for the page to draw behind its own.

python -m benchmarks.jet_spectra --checkpoint checkpoints/jets-gluon --data-root FILE

Writes spectra.json beside the checkpoint: counts of the held-out jets in the bins that the page
draws, a few kB and no jets.
"""

import argparse
from pathlib import Path

from ldm.checkpoints.finding import find_checkpoint
from ldm.demo.jets import real_jets
from ldm.errors import guard, say
from ldm.jets.spectra import NAME
from ldm.scripts.flags import Parser


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="PATH")
    parser.add_argument("--data-root", metavar="PATH", help="the jets (default: as recorded)")
    args = parser.parse_args()
    file = find_checkpoint(Path(args.checkpoint))
    reference = real_jets(file, args.data_root)
    path = file.with_name(NAME)
    reference.write(path)
    jets = sum(spectra.jets for spectra in reference.classes.values())
    say(f"{path}: {jets:,} {reference.source}, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    guard(main)
