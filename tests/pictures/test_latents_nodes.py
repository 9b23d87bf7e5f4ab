"""The latent cache written by two machines on one network file system, simulated at its worst.

A machine has a copy of every file that it has opened, and whatever it writes makes whole pages of
4 kB of that copy dirty. They are written back in any order, over what others have written.
"""

import json
import os
import random
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.errors import Refusal
from ldm.pictures import latents
from ldm.pictures.latent_writer import Writer, part_of
from ldm.pictures.latents import COLUMNS, LatentCache, checksums, examine, open_cache

PAGE, NODES, EACH, ROWS, BATCH = 4096, 2, 8, 12_800, 16
WORLD, SHAPE = NODES * EACH, (1, 4, 2, 2)


def right(rows):
    """What belongs into these rows: no two are alike, and none is 0."""
    index = torch.as_tensor(rows) + 1
    moments = (index[:, None] * 16 + torch.arange(16)) % 997 / 64
    return moments.reshape(-1, *SHAPE), index % 1000 + 1, index


class Node:
    """A machine's view of a folder on the server: its own copy, and what it has not written back."""

    def __init__(self, server, view):
        self.server, self.view = server, view
        shutil.copytree(server, view)
        self.before = {path: path.read_bytes() for path in self.files()}

    def files(self):
        return [path for path in self.view.rglob("*") if path.is_file()]

    def dirty(self):
        """(file, page, its bytes) of all pages that were written to since they were read."""
        for path in self.files():
            if path.name.endswith(".lock"):
                continue
            now, before = path.read_bytes(), self.before.get(path, b"")
            for at in range(0, len(now), PAGE):
                page = now[at : at + PAGE]
                if path not in self.before or page != before[at : at + PAGE]:
                    yield self.server / path.relative_to(self.view), at, page


def write_back(nodes):
    """All dirty pages of all machines, in a bad order: now of one, now of the other."""
    pages = [page for node in nodes for page in node.dirty()]
    random.Random(0).shuffle(pages)
    for path, at, page in pages:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(at)
            file.write(page)


class Shared:
    """The layout before this one: rank 0 makes one file a column, all write rows into it."""

    def __init__(self, partial):
        self.paths = {name: partial / f"{name}.npy" for name in COLUMNS}

    def begin(self):
        for name, kind in COLUMNS.items():
            shape = (ROWS, *SHAPE) if name == "moments" else (ROWS,)
            np.lib.format.open_memmap(self.paths[name], "w+", kind, shape).flush()

    def put(self, rows):
        moments, label, index = (part.numpy() for part in right(rows))
        values = {"moments": moments.astype(np.float16), "label": label, "index": index}
        values["sums"] = checksums(values)
        for name, value in values.items():
            start = np.load(self.paths[name], mmap_mode="r").offset
            with open(self.paths[name], "r+b") as file:
                file.seek(start + rows[0] * value[0].nbytes)
                file.write(np.ascontiguousarray(value, COLUMNS[name]).tobytes())


def test_the_old_layout_loses_rows_in_the_simulation(tmp_path):
    server = tmp_path / "server"
    server.mkdir()
    Shared(server).begin()
    nodes = [Node(server, tmp_path / f"node{n}") for n in range(NODES)]
    for k, start in enumerate(range(0, ROWS, BATCH)):
        Shared(nodes[k % WORLD // EACH].view).put([*range(start, start + BATCH)])
    write_back(nodes)
    label = np.load(server / "label.npy")
    assert (label == 0).sum() > 100 and not np.array_equal(label, right(range(ROWS))[1])


@pytest.fixture
def written(tmp_path):
    """A cache of two nodes and the server's folder of it."""
    server = tmp_path / "server"
    folder = server / "latents" / "key"
    first = Writer(folder, Path(f"{folder}.partial"), 0, WORLD)
    first.begin()
    nodes = [Node(server, tmp_path / f"node{n}") for n in range(NODES)]
    blocks = [[*range(start, start + BATCH)] for start in range(0, ROWS, BATCH)]
    writers = []
    for rank in range(WORLD):
        view = nodes[rank // EACH].view / "latents"
        writer = Writer(view / "key", view / "key.partial", rank, WORLD)
        mine = [blocks[i] for i in part_of(len(blocks), rank, WORLD)]
        writer.open(range(mine[0][0], mine[-1][-1] + 1), SHAPE)
        writers.append((writer, mine))
    for i in range(len(blocks) // WORLD + 1):  # all at once
        for writer, mine in writers:
            if i < len(mine):
                writer.put(mine[i], *right(mine[i]))
    for writer, _ in writers:
        writer.close()
    write_back(nodes)
    return first, folder


def test_every_byte_of_two_nodes_is_right(written):
    first, folder = written
    first.end()
    found = open_cache(folder)
    moments, label, index = right(range(ROWS))
    assert len(found) == ROWS and found.is_whole()
    for name, column in (("moments", moments.half()), ("label", label), ("index", index)):
        assert np.array_equal(found.parts[name][:], column.numpy())
    assert torch.equal(found.table(torch.device("cpu")), moments.half())
    rows = torch.randperm(ROWS)[:500].tolist()
    batch = found.__getitems__(rows)
    assert torch.equal(batch["moments"], moments.half()[rows])
    assert batch["label"].tolist() == label[rows].tolist()
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_what_a_node_lost_is_found_before_the_cache_has_its_name(written):
    first, folder = written
    path = first.partial / "sums.11.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(Refusal, match=r"process 11 wrote .*its checksums are others"):
        first.end()
    assert not folder.exists()
    path.write_bytes(whole)
    (first.partial / "label.3.npy").unlink()
    with pytest.raises(Refusal, match=r"process 3 .*storage that all nodes share"):
        first.end()


@pytest.mark.parametrize("name", ["moments.9.npy", "label.npy", "index.15.npy", "sums.2.npy"])
def test_a_flipped_byte_of_any_part_is_found(written, name, capsys):
    first, folder = written
    first.end()
    spoilt = bytearray((folder / name).read_bytes())
    spoilt[-300] ^= 4
    (folder / name).write_bytes(spoilt)
    assert open_cache(folder) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "damaged (a row is not what was written); computed again" in line
    found = LatentCache(folder)
    assert found.table(torch.device("cpu")) is None
    assert not (folder / "about.json").exists()  # whoever comes next computes it again


def test_processes_share_the_examination(written, monkeypatch):
    """Rows are looked at by one process each; a damage is found by the one whose row it is."""
    first, folder = written
    first.end()
    spoilt = bytearray((folder / "label.npy").read_bytes())
    spoilt[-8 * 3] ^= 1
    (folder / "label.npy").write_bytes(spoilt)
    looks = [isinstance(examine(folder, rank, WORLD), str) for rank in range(WORLD)]
    assert sum(looks) == 1
    monkeypatch.setattr(latents, "CHECKED", 1)  # one row a process
    assert sum(isinstance(examine(folder, rank, 3), str) for rank in range(3)) == 0


def test_the_table_is_loaded_in_chunks(written, monkeypatch):
    """What a process has of its own while it fills the device's memory is a chunk, not the table."""
    first, folder = written
    first.end()
    found = open_cache(folder)
    peaks = []
    for share in (1, 32):
        monkeypatch.setattr(latents, "CHUNK", found.size // share)
        tracemalloc.start()
        table = found.table(torch.device("cpu"))  # torch's own memory is not counted
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(table) == ROWS and peaks[0] > found.size > 2 * peaks[1], peaks


def test_a_cache_of_an_older_version_is_read(tmp_path):
    """One part, and nothing of further ones in about.json."""
    Shared(tmp_path).begin()
    for start in range(0, ROWS, BATCH):
        Shared(tmp_path).put([*range(start, start + BATCH)])
    parts = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
    headers = {
        name: {"dtype": part.dtype.str, "shape": list(part.shape), "fortran": False}
        for name, part in parts.items()
    }
    (tmp_path / "about.json").write_text(json.dumps({"version": 1, "parts": headers}) + "\n")
    found = open_cache(tmp_path)
    assert found.is_whole() and found.parts["index"][:].tolist() == [*range(1, ROWS + 1)]


def test_blocks_go_round():
    for blocks, world in ((800, 16), (7, 3), (2, 5), (1, 1)):
        taken = [i for rank in range(world) for i in part_of(blocks, rank, min(world, blocks))]
        assert taken == [*range(blocks)]


def test_no_file_is_written_by_two(tmp_path):
    folder = tmp_path / "key"
    Writer(folder, tmp_path / "p", 0, 2).begin()
    Writer(folder, tmp_path / "p", 1, 2).open(range(4), SHAPE)
    with pytest.raises(Refusal, match="File exists"):
        Writer(folder, tmp_path / "p", 1, 2).open(range(4), SHAPE)
    assert os.listdir(tmp_path / "p")
