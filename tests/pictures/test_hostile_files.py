"""Files that claim more than they hold, or lead elsewhere: one line, before anything is allocated
or followed.
"""

import gzip
import struct

import h5py
import numpy as np
import pytest

from ldm.errors import Refusal
from ldm.jets.files import read_jets
from ldm.pictures.images import read_idx

N = 40_000_000  # jets: 19 GB of float32


def jets(n=4):
    particles = np.zeros((n, 30, 4), np.float32)
    particles[:, :3] = 0.1, 0.1, 0.3, 1
    return particles, np.tile(np.float32([100, 0, 10, 3]), (n, 1))


def fill(file, **other):
    for key, array in zip(("particle_features", "jet_features"), jets(), strict=True):
        if key not in other:
            file.create_dataset(key, data=array)
        elif other[key] is not None:
            other[key](file, key)


def never_written(file, key):
    file.create_dataset(key, (N, 30, 4), np.float32, chunks=(1000, 30, 4))


def contiguous(file, key):
    file.create_dataset(key, (N, 30, 4), np.float32)


def filled_with(file, key):
    file.create_dataset(key, (N, 30, 4), np.float32, chunks=(1000, 30, 4), fillvalue=0.1)


def one_chunk_written(file, key):
    never_written(file, key)
    file[key][:1000] = 0.01


def zeros_well_packed(file, key):
    file.create_dataset(
        key, data=np.zeros((300_000, 30, 4), np.float32), compression="gzip", compression_opts=9
    )


def one_huge_block(file, key):
    file.create_dataset(
        key,
        (4, 30, 4),
        np.float32,
        chunks=(1_000_000, 30, 4),
        maxshape=(None, 30, 4),
        compression="gzip",
    )
    file[key].id.write_direct_chunk((0, 0, 0), b"\0" * 64)


def soft(file, key):
    file["elsewhere"] = jets()[0]
    file[key] = h5py.SoftLink("/elsewhere")


def soft_loop(file, key):
    file[key] = h5py.SoftLink(f"/{key}")


def external_link(file, key):
    file[key] = h5py.ExternalLink("/etc/passwd", "/x")


def external_storage(file, key):
    file.create_dataset(key, (4, 30, 4), np.float32, external=[("/etc/passwd", 0, 1920)])


def virtual(file, key):
    layout = h5py.VirtualLayout((4, 30, 4), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4, 30, 4))
    file.create_virtual_dataset(key, layout)


def group(file, key):
    file.create_group(key)


def scalar(file, key):
    file[key] = np.float32(1)


def empty(file, key):
    file[key] = h5py.Empty("f")


def text(file, key):
    file[key] = "particles"


def pointers(file, key):
    file.create_dataset(key, (4, 30, 4), h5py.ref_dtype)


def compound(file, key):
    file.create_dataset(key, (4, 30, 4), np.dtype([("x", "f4")]))


def vlen(file, key):
    file.create_dataset(key, (4, 30, 4), h5py.vlen_dtype(np.float32))


def half_of_it(file, key):
    file[key] = jets()[0][:2]


def flat(file, key):
    file[key] = jets()[0].reshape(-1)


def complex_numbers(file, key):
    file[key] = jets()[0].astype(complex)


def whole_numbers(file, key):
    file[key] = jets()[0].astype(int)


def named_type(file, key):
    file[key] = np.dtype("f4")


LAYOUTS = [
    never_written,
    contiguous,
    filled_with,
    one_chunk_written,
    zeros_well_packed,
    one_huge_block,
    soft,
    soft_loop,
]
LAYOUTS += [
    external_link,
    external_storage,
    virtual,
    group,
    scalar,
    empty,
    text,
    pointers,
    compound,
    vlen,
    half_of_it,
    flat,
]
LAYOUTS += [complex_numbers, whole_numbers, named_type]


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("key", ["particle_features", "jet_features"])
def test_a_data_set_that_is_not_there_is_one_line(make, key, tmp_path):
    path = tmp_path / "g.hdf5"
    with h5py.File(path, "w") as file:
        fill(file, **{key: make})
    assert path.stat().st_size < 3_000_000
    with pytest.raises(Refusal) as error:
        read_jets(path, 30)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize("cut", [0, 8, 100, 1000, 2500])
def test_a_cut_file_is_one_line(cut, tmp_path):
    path = tmp_path / "g.hdf5"
    with h5py.File(path, "w") as file:
        fill(file)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Refusal):
        read_jets(path, 30)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_one_line_or_read(seed, tmp_path):
    """Bytes changed anywhere in the header: h5py raises what it likes."""
    path, random = tmp_path / "g.hdf5", np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        fill(file)
    raw = bytearray(path.read_bytes())
    for place in random.integers(0, 2048, 40):
        raw[place] = random.integers(256)
    path.write_bytes(raw)
    try:
        read_jets(path, 30)
    except Refusal as error:
        assert "\n" not in str(error)


def test_what_is_whole_is_read(tmp_path):
    path = tmp_path / "g.hdf5"
    with h5py.File(path, "w") as file:
        fill(file)
    assert read_jets(path, 30)[1].sum() == 12


# -- idx files of MNIST's kind ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "header, body",
    [
        ((0x803, 60000, 28, 28), b"\0" * 1000),
        ((0x803, 2**31, 2**31, 2**31), b""),
        ((0x8FF,), b""),
        ((0x803, 2), b""),
        ((0x803, 100_000, 1000, 1000), b"\0" * 10_000_000),
        ((0x803, 1, 2, 2), b"\0" * 100),
        ((0x903, 1, 2, 2), b"\0" * 4),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_that_claim_what_they_have_not(header, body, suffix, tmp_path):
    path, raw = tmp_path / f"idx{suffix}", struct.pack(f">{len(header)}I", *header) + body
    path.write_bytes(gzip.compress(raw) if suffix else raw)
    with pytest.raises(Refusal, match="idx file"):
        read_idx(path)


def test_a_gz_that_swells_is_not_unpacked(tmp_path):
    """200 kB that would be 200 MB: no more is read than the header says."""
    path = tmp_path / "idx.gz"
    raw = struct.pack(">4I", 0x803, 1, 28, 28)
    path.write_bytes(gzip.compress(raw + bytes(200_000_000), 1))
    with pytest.raises(Refusal, match="more than its header says"):
        read_idx(path)
