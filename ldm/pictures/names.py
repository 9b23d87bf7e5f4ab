"""The names of a folder's files, sorted as their paths are, without a path object for each."""

import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from ldm.pictures.listing import Notes, entered, shelf
from ldm.system.arrays import Arrays


class Named:
    """Folders, and what lies in each: read once."""

    def __init__(self, root: Path):
        self.notes = Notes(root)
        self.folders: list[str] = []  # from the root
        self.times = array("q")  # of their last change, ns
        self.inside: list[tuple[bytes, bytes, bytes]] = []  # names, shelves, links
        self.below: dict[str, list[tuple[str, int]]] = {}  # name and number of those inside
        for folder, about, files in entered(root, self.notes):
            relative = "" if folder == root else str(folder.relative_to(root))
            if relative:
                above, name = os.path.split(relative)
                self.below.setdefault(above, []).append((name, len(self.folders)))
            self.folders.append(relative)
            self.times.append(about.st_ctime_ns if about else -1)
            names = os.fsencode("\0".join(file.name for file in files))
            shelves = bytes(shelf(str(folder), file.name) for file in files)
            self.inside.append((names, shelves, bytes(file.is_symlink() for file in files)))

    def __len__(self) -> int:
        return sum(len(shelves) for _, shelves, _ in self.inside)

    def _names(self, folder: int) -> list[str]:
        names, shelves, _ = self.inside[folder]
        return os.fsdecode(names).split("\0") if shelves else []

    def _runs(self) -> Iterator[tuple[int, list[str], int, int]]:
        """Files of one folder that follow each other: a folder stands where its name does."""
        names = lru_cache(4)(self._names)
        stack = [(0, 0, 0)]  # a folder, how many of its files and of its folders are done
        while stack:
            folder, at, done = stack.pop()
            inside = sorted(self.below.get(self.folders[folder], []))
            if done == len(inside):
                yield folder, names(folder), at, len(names(folder))
                continue
            name, below = inside[done]
            stop = bisect_left(names(folder), name, at)
            yield folder, names(folder), at, stop
            stack += [(folder, stop, done + 1), (below, 0, 0)]

    def arrays(self) -> Arrays:
        """Names and what follows from them, in order, and room for the rest."""
        blob, ends, folders, marks = bytearray(), array("q", [0]), array("i"), array("L")
        shelves, links = bytearray(), bytearray()
        for folder, names, start, stop in self._runs():
            above = Path(self.folders[folder]).as_posix() + "/" if self.folders[folder] else ""
            before = zlib.crc32(os.fsencode(above))
            for name in map(os.fsencode, names[start:stop]):
                blob += name + b"\0"
                ends.append(len(blob))
                marks.append(zlib.crc32(name, before))
            folders.extend([folder] * (stop - start))
            shelves += self.inside[folder][1][start:stop]
            links += self.inside[folder][2][start:stop]
        count = len(folders)
        found: Arrays = {
            "names": np.frombuffer(bytes(blob), np.uint8),
            "ends": np.array(ends, np.int64),
        }
        found |= {"folder": np.array(folders, np.int32), "mark": np.array(marks, np.uint32)}
        found |= {"shelf": np.frombuffer(bytes(shelves), np.uint8)}
        found |= {"link": np.frombuffer(bytes(links), np.uint8)}
        found |= {name: np.zeros(count, np.int64) for name in ("size", "mtime", "ctime")}
        found |= {name: np.zeros(count, np.uint8) for name in ("flags", "span")}
        return found | {
            "side": np.zeros(count, np.int32),
            "folder_time": np.array(self.times, np.int64),
        }
