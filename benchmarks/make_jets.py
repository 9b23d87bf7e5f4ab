"""Jets of JetNet's five types, made with Pythia 8 in JetNet's own layout (Kansal et al. 2021).

pp at 13 TeV at leading order, pT-hat in a window of 1 TeV +- 1 %: gluons of gg -> gg, light quarks
of qq -> qq, tops of pairs whose W decay to quarks, W of WW and Z of ZZ pairs that decay to quarks;
then shower up to the kinematic limit, multi-parton interactions, hadrons (Pythia's default Monash
2013 tune). Jets by anti-kT of R = 0.4, as JetNet's files have it: the leading one of each event,
its hardest constituents. No detector. JetNet keeps jets of 800 to 1600 GeV, here each is kept. At
R = 0.4 a part of the tops leaves decay products outside: their jets are lighter than 173 GeV.

A file is a function of its arguments and of Pythia's version. Its rows are

    particle_features (N, P, 4): eta_rel, phi_rel, pt_rel, mask; by pt, padded with zeros
    jet_features (N, 4): pt [GeV], eta, mass [GeV], min(number of constituents, P)

    pip install pythia8mc; python -m benchmarks.make_jets --type t --output DIR/t.hdf5 --jets 15000
"""

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ldm.errors import Refusal, guard
from ldm.scripts.flags import Parser
from ldm.system.files import atomic_write
from ldm.system.progress import Bar

W_TO_QUARKS = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
Z_TO_QUARKS = ("23:onMode = off", "23:onIfAny = 1 2 3 4 5", "WeakZ0:gmZmode = 2")
PROCESSES = {
    "g": ("HardQCD:gg2gg = on",),
    "q": ("HardQCD:qq2qq = on",),
    "t": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *W_TO_QUARKS),
    "w": ("WeakDoubleBoson:ffbar2WW = on", *W_TO_QUARKS),
    "z": ("WeakDoubleBoson:ffbar2gmZgmZ = on", *Z_TO_QUARKS),
}
# to the kinematic limit: JetNet's spectra of pt are as broad as that
SHOWER = ("SpaceShower:pTmaxMatch = 2", "TimeShower:pTmaxMatch = 2")
CHUNK = 500  # jets that are written at once


def settings(kind: str, seed: int) -> list[str]:
    """Pythia's settings for one type; they are kept in the file's attributes."""
    return [
        "Print:quiet = on",
        "Next:numberCount = 0",
        "Random:setSeed = on",
        f"Random:seed = {seed}",
        "Beams:eCM = 13000.",
        "PhaseSpace:pTHatMin = 990",
        "PhaseSpace:pTHatMax = 1010",
        *PROCESSES[kind],
        *SHOWER,
    ]


def generator(lines: list[str]) -> Any:
    """Pythia with these settings, started; Refusal where it is not installed."""
    try:
        import pythia8mc
    except ModuleNotFoundError as error:
        raise Refusal("Pythia 8 is not installed: pip install pythia8mc") from error

    pythia = pythia8mc.Pythia("", False)
    for line in lines:
        if not pythia.readString(line):
            raise ValueError(f"Pythia does not know: {line}")
    if not pythia.init():
        raise RuntimeError("Pythia did not start")
    return pythia


def constituents(event: Any, members: list[int], jet: Any, most: int) -> np.ndarray:
    """eta_rel, phi_rel, pt_rel, mask of the hardest, (most, 4)."""
    found = np.array([(event[i].eta(), event[i].phi(), event[i].pT()) for i in members])
    found = found[np.argsort(-found[:, 2], kind="stable")][:most]
    row = np.zeros((most, 4), np.float32)
    row[: len(found), 0] = found[:, 0] - jet.eta()
    row[: len(found), 1] = (found[:, 1] - jet.phi() + np.pi) % (2 * np.pi) - np.pi
    row[: len(found), 2] = found[:, 2] / jet.pT()
    row[: len(found), 3] = 1
    return row


def jets(pythia: Any, radius: float, most: int) -> Iterator[tuple[np.ndarray, list[float]]]:
    """The leading jet of each event: its constituents (most, 4), and pt, eta, mass, number."""
    import pythia8mc

    # power -1: anti-kT; jets above 100 GeV of visible particles of |eta| < 5 with their masses
    finder = pythia8mc.SlowJet(-1, radius, 100.0, 5.0, 2, 2)
    while True:
        if not (pythia.next() and finder.analyze(pythia.event) and finder.sizeJet()):
            continue
        jet, members = finder.p(0), list(finder.constituents(0))
        row = constituents(pythia.event, members, jet, most)
        yield row, [jet.pT(), jet.eta(), finder.m(0), row[:, 3].sum()]


def write(file: h5py.File, found: Iterator[tuple[np.ndarray, list[float]]], args: Any) -> None:
    """`args.jets` of the jets found, chunk by chunk."""
    options = {"dtype": "f4", "compression": "gzip", "compression_opts": 6, "shuffle": True}
    shapes = {"particle_features": (args.num_particles, 4), "jet_features": (4,)}
    particles, features = (
        file.create_dataset(
            name, (args.jets, *shape), chunks=(min(CHUNK, args.jets), *shape), **options
        )
        for name, shape in shapes.items()
    )
    particles.attrs["columns"] = ["etarel", "phirel", "ptrel", "mask"]
    features.attrs["columns"] = ["pt", "eta", "mass", "num_particles"]
    with Bar(f"{args.type} jets", args.jets, "jet") as bar:
        for start in range(0, args.jets, CHUNK):
            rows = [next(found) for _ in range(start, min(start + CHUNK, args.jets))]
            particles[start : start + CHUNK] = np.stack([row for row, _ in rows])
            features[start : start + CHUNK] = np.array([jet for _, jet in rows], np.float32)
            bar.update(len(rows))


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", choices=PROCESSES, required=True)
    parser.add_argument("--output", type=Path, help="(default: TYPE.hdf5)")
    parser.add_argument("--jets", type=int, default=15_000)
    parser.add_argument("--num-particles", type=int, default=30)
    parser.add_argument("--radius", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    path = args.output or Path(f"{args.type}.hdf5")
    lines = settings(args.type, args.seed)
    found = jets(generator(lines), args.radius, args.num_particles)
    with atomic_write(path, "wb") as stream, h5py.File(stream, "w") as file:
        file.attrs["made_with"] = f"pythia8mc {version('pythia8mc')}"
        file.attrs["pythia_settings"] = "\n".join(lines)
        write(file, found, args)
    print(f"{path}: {args.jets:,} {args.type} jets, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    guard(main)
