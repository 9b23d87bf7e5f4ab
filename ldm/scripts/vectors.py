"""Jets as four-vectors (px, py, pz, E) in GeV, for awkward, ROOT and numpy.

python -m ldm.jets samples/jets/jets.hdf5 --pt 1000 --output samples/jets.parquet
  >>> ak.from_parquet("samples/jets.parquet").px     # a list for each jet; jet_px, ... of their sum
python -m ldm.jets g.hdf5 --output g.npz             # each jet's own pt and eta, as JetNet has them

FILE is in JetNet's layout, what sample.py writes. Constituents are massless, hardest first.
"""

import argparse
from pathlib import Path

from ldm.errors import Refusal, guard, say
from ldm.scripts.flags import Parser, home


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m ldm.jets", description=__doc__, formatter_class=formatter)
    parser.add_argument("file", type=home, metavar="FILE", help="jets in JetNet's layout")
    text = "of every jet (default: each jet's own, where the file has it in GeV)"
    parser.add_argument("--pt", type=float, metavar="GEV", help=text)
    text = "of every jet (default: its own, or 0); phi is 0"
    parser.add_argument("--eta", type=float, metavar="ETA", help=text)
    text = "a file that ends in .parquet (pip install 'ldm[parquet]'), .npz or .hdf5"
    parser.add_argument("--output", type=home, required=True, metavar="FILE", help=text)
    return parser.parse_args()


def main() -> None:
    args = parse()
    from ldm.jets.vectors import Vectors, expect_format  # slow imports

    file, output = Path(args.file), Path(args.output)
    expect_format(output)
    if not file.is_file():
        raise Refusal(f"'{file}' is no file")
    if output.exists() and output.samefile(file):
        raise Refusal("--output: it is the file that is read; name another")
    vectors = Vectors.read(file, args.pt, args.eta)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        vectors.write(output)
    except OSError as error:
        raise Refusal(f"--output: '{output}' cannot be written ({error.strerror})") from None
    say(f"wrote {len(vectors.mask)} jets of {vectors.mask.sum()} constituents to {output}")


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
