"""What is kept of a folder's files: the same pictures in the same order, and stale in no case."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from picture_files import RAMP, bad_files, picture, tiff
from PIL import Image

from ldm.errors import Refusal
from ldm.pictures import headers, index, looking
from ldm.pictures.folders import ImageFolder
from ldm.pictures.listing import Notes, walk
from ldm.pictures.opening import Head, Unreadable
from ldm.system.arrays import Words, read_arrays, write_arrays
from ldm.system.identity import hash_of, hash_of_files


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Every folder is large enough to be kept, in a cache of the test's own; nothing is young."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "KEPT", 1)
    monkeypatch.setattr(index, "SETTLED", 0.02)  # the tick of a local disk's clock is 4 ms


def folder(root):
    for name in ("b/2.png", "b/1.jpg", "a.png", "b.x/3.png", "b/c/4.png", "z.png", "B/5.png"):
        picture(root / name)
    (root / "b" / "1.txt").write_text("a caption")
    for i in range(12):
        picture(root / "many" / f"{i}.png", "L")
    time.sleep(0.05)
    return root


def load(root, **more):
    return ImageFolder(root=str(root), size=8, **more).load()


def looks(monkeypatch):
    """How often files are opened for their headers."""
    seen, real = [], index.look
    monkeypatch.setattr(index, "look", lambda *given: seen.append(1) or real(*given))
    return seen


def same(a, b):
    parts = [
        [(p.path, p.label, p.text) for s in (x.train, x.test) for p in s.pictures] for x in (a, b)
    ]
    return parts[0] == parts[1] and (a.classes, a.shape, a.view) == (b.classes, b.shape, b.view)


def test_a_second_start_reads_what_was_kept(tmp_path, monkeypatch, capsys):
    root, seen = folder(tmp_path / "in"), looks(monkeypatch)
    (root / "bad.png").write_bytes(b"no")
    (root / "x.svg").write_text("<svg/>")
    time.sleep(0.05)
    first = load(root, label="path")
    hashes = first.train.fingerprint(), first.train.identity()
    lines = capsys.readouterr().out
    assert seen == [1] and "bad.png cannot be read" in lines and "not read: 1 .svg" in lines
    again = load(root, label="path")
    assert seen == [1] and same(first, again) and capsys.readouterr().out == lines
    assert (again.train.fingerprint(), again.train.identity()) == hashes
    load(root, label="top", holdout=2)  # other settings, the same files
    assert seen == [1]
    load(root, label="top", trust="never")
    assert seen == [1, 1]


def test_the_hashes_are_those_of_a_list_of_paths(tmp_path):
    """Which is what checkpoints and caches of an older ldm have."""
    root = folder(tmp_path / "in")
    (root / "link.png").symlink_to(root / "a.png")
    (root / "other").symlink_to(tmp_path / "elsewhere")
    picture(tmp_path / "elsewhere" / "9.png")
    time.sleep(0.05)
    for _ in range(2):  # looked at, and kept
        rows = load(root).train
        listed = list(rows.pictures)
        content = hash_of(repr(rows.view), hash_of_files([p.path for p in listed]))
        assert rows.identity() == {
            "content": content,
            "labels": hash_of(*(repr(p.label) for p in listed)),
            "captions": hash_of(*(repr(p.text) for p in listed)),
        }
        kept = rows.fingerprint()
        rows.pictures, rows.memory = listed, None
        assert rows.fingerprint() == kept and rows.identity()["content"] == content


def test_the_order_is_that_of_paths(tmp_path):
    root = folder(tmp_path / "in")
    (root / "b" / "c.png").mkdir()
    picture(root / "b" / "c.png" / "x.png")
    picture(root / "b" / "c!" / "x.png")
    files = index.files_of(root)
    assert [files.path(i) for i in range(len(files))] == sorted(walk(root, Notes(root)))
    names = [os.fsencode(files.path(i).relative_to(root).as_posix()) for i in range(len(files))]
    assert files["mark"].tolist() == [*map(zlib.crc32, names)]  # by which one is held out


def rewritten(path):
    """In place: the folder's time stays. Old by the time that the next start looks at it."""
    Image.new("RGB", (9, 9), "red").save(path)
    time.sleep(0.05)


CHANGES = {
    "added": lambda root: picture(root / "many" / "new.png"),
    "removed": lambda root: (root / "many" / "3.png").unlink(),
    "renamed": lambda root: (root / "many" / "3.png").rename(root / "many" / "33.png"),
    "moved": lambda root: (root / "many" / "3.png").rename(root / "b" / "3.png"),
    "written over": lambda root: rewritten(root / "many" / "3.png"),
    "replaced": lambda root: os.replace(shutil.copy(root / "a.png", root / "t"), root / "z.png"),
    "a caption": lambda root: (root / "b" / "1.txt").write_text("another"),
    "a folder": lambda root: picture(root / "new" / "1.png"),
    "a folder renamed": lambda root: (root / "B").rename(root / "C"),
    "a link led": lambda root: picture(root.parent / "later.png"),
    "same size and time": lambda root: touched(root / "many" / "3.png"),
}


def touched(path):
    """Other bytes, and the size and time that were there before."""
    about, raw = path.stat(), path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(tmp_path, monkeypatch, change):
    root, seen = folder(tmp_path / "in"), looks(monkeypatch)
    (root / "led.png").symlink_to(tmp_path / "later.png")
    time.sleep(0.05)
    load(root)
    load(root)
    assert seen == [1]
    CHANGES[change](root)
    now = load(root)
    assert len(seen) >= 2
    monkeypatch.setattr(index, "KEPT", 10**9)  # as if nothing had ever been kept
    assert same(now, load(root)) and now.train.fingerprint() == load(root).train.fingerprint()


def test_of_very_many_files_each_is_asked_while_the_run_begins(tmp_path, monkeypatch):
    """A picture written over is found by the time that its identity is needed; folders at once."""
    root, seen = folder(tmp_path / "in"), looks(monkeypatch)
    load(root)
    monkeypatch.setattr(index, "ASKED", 0)
    assert load(root).train.identity() and seen == [1]
    rewritten(root / "many" / "3.png")
    trusting = load(root, trust="folders")
    assert trusting.train.identity() and seen == [1]
    begun = load(root)
    for ask in (begun.train.identity, begun.test.fingerprint):
        with pytest.raises(Refusal, match=r"3.png has changed since .*: start again"):
            ask()
    assert load(root).train.identity() and seen == [1, 1]
    picture(root / "many" / "new.png")
    assert load(root).train.identity() and len(seen) >= 3


def test_what_has_just_changed_is_not_kept_as_it_was_read(tmp_path, monkeypatch):
    """Within one tick of the clock a second change would leave the time as it is."""
    root = folder(tmp_path / "in")
    monkeypatch.setattr(index, "SETTLED", 1e9)  # all is young, and stays so
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    load(root)
    assert not [*(tmp_path / "cache").rglob("*.npy")]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "words"])
def test_a_damaged_index_is_made_again(tmp_path, monkeypatch, damage):
    root, seen = folder(tmp_path / "in"), looks(monkeypatch)
    first = load(root)
    (place,) = (tmp_path / "cache" / "ldm" / "folders").glob("*/files")
    path = place / "size.npy"
    raw = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "words":
        (place / "about.json").write_text("{")
    else:
        path.write_bytes(
            raw[:-3] if damage == "cut" else raw[:-3] + bytes([raw[-3] ^ 8]) + raw[-2:]
        )
    assert same(first, load(root)) and seen == [1, 1]
    load(root)
    assert seen == [1, 1]


def test_where_it_cannot_be_kept_it_is_said_and_done_without(tmp_path, monkeypatch, capsys):
    root = folder(tmp_path / "in")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load(root).train) and "is not kept for the next start" in capsys.readouterr().out
    monkeypatch.setattr(index, "KEPT", 10**6)
    assert len(load(root).train) and "is not kept" not in capsys.readouterr().out


def test_a_small_folder_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "KEPT", 20_000)
    load(folder(tmp_path / "in"))
    assert not (tmp_path / "cache").exists()


def test_headers_are_those_of_pillow(tmp_path):
    """Whatever is understood without it; and the usual kinds are."""
    bad_files(tmp_path)
    for mode, quality in (("L", 50), ("RGB", 90), ("CMYK", 80)):
        for progressive in (False, True):
            name = f"{mode}-{progressive}.jpg"
            image = Image.new(mode, (31, 17), 5)
            image.save(tmp_path / name, quality=quality, progressive=progressive, comment=b"x")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        Image.new(mode, (8, 5)).save(tmp_path / f"{mode}.png")
        Image.new(mode, (8, 5)).save(tmp_path / f"{mode}-dpi.png", dpi=(72, 72))
    tiff(tmp_path / "f.tif", RAMP.astype("<f4"), 32, 3)
    Image.new("L", (8, 8)).save(tmp_path / "a.gif")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    whole = (tmp_path / "RGB-False.jpg").read_bytes()
    for i in range(0, 200, 3):  # damage of every kind
        (tmp_path / f"damaged{i}.jpg").write_bytes(whole[:i] + b"\xff" + whole[i + 1 :])
        (tmp_path / f"cut{i}.jpg").write_bytes(whole[:i])
    plain = set()
    for path in walk(tmp_path, Notes(tmp_path)):
        flags, side = headers.look(os.fsencode(path))[3:]
        if flags & headers.PLAIN:
            head = Head.of(path)  # raises where Pillow cannot
            assert (head.grey, head.shorter) == (bool(flags & headers.GREY), side), path
            assert not head.deep and not head.frames, path
            plain.add(path.name)
    assert {"L-True.jpg", "RGB-False.jpg", "CMYK-False.jpg", "RGBA.png", "RGB-dpi.png"} <= plain
    assert not {"I;16.png", "turned.jpg", "cut.png", "a.gif", "text.png"} & plain
    with pytest.raises(Unreadable):
        Head.of(tmp_path / "words.png")


def test_processes_that_help_find_the_same(tmp_path, monkeypatch):
    root = folder(tmp_path / "in")
    alone = index.files_of(root, "never")
    monkeypatch.setattr(looking, "MANY", 1)
    monkeypatch.setattr(looking, "MOST", 4)
    helped = index.files_of(root, "never")
    for column in set(alone.arrays) - {"folder_time"}:
        assert np.array_equal(alone[column], helped[column]), column
    monkeypatch.setattr(headers, "__file__", "/nowhere")  # they die at once: asked here
    assert np.array_equal(index.files_of(root, "never")["size"], alone["size"])


def test_a_worker_that_is_not_forked_is_given_names(tmp_path):
    rows = load(folder(tmp_path / "in")).train
    sent = pickle.dumps(rows.pictures)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert [p.path for p in again] == [p.path for p in rows.pictures] and again[0] == rows.pictures[
        0
    ]
    assert torch.equal(
        pickle.loads(pickle.dumps(rows)).__getitems__([3])["image"], rows[3]["image"]
    )


RACE = """
import sys
from ldm.pictures import index
index.KEPT, index.SETTLED = 1, 0.02
real = index.look
index.look = lambda *given: print("looked") or real(*given)
from ldm.pictures.folders import ImageFolder
print(ImageFolder(root=sys.argv[1], size=8).load().train.fingerprint())
"""


@pytest.mark.slow
def test_processes_that_start_together_look_once(tmp_path):
    root = folder(tmp_path / "in")
    env = os.environ | {"PYTHONPATH": str(ROOT), "LOCAL_RANK": "1"}
    command = [sys.executable, "-c", RACE, str(root)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, env=env, stdout=pipe, text=True) for _ in range(3)]
    said = [process.communicate(timeout=300)[0].split() for process in both]
    assert sum(words.count("looked") for words in said) == 1
    assert len({words[-1] for words in said}) == 1


def test_words_and_arrays_come_back(tmp_path):
    texts = ["", "a", "zero\0inside", "é\udcff", "x" * 5000]
    words = Words.of(texts)
    assert list(words) == texts and words[-1] == texts[-1] and words[1:3] == texts[1:3]
    names = Words.of([str(i) for i in range(100)])
    assert names.some([3, 4, 90]) == ["3", "4", "90"] == [names[i] for i in (3, 4, 90)]
    assert names.some([*range(5, 60)]) == [str(i) for i in range(5, 60)]
    folder = Path(tmp_path / "kept")
    for number in (1, 2):
        write_arrays(folder, {"raw": words.raw, "ends": words.ends}, {"number": number})
        arrays, about = read_arrays(folder)
        assert about == {"number": number} and list(Words(arrays["raw"], arrays["ends"])) == texts
    assert os.listdir(tmp_path) == ["kept"]
    said = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(said | {"sums": {"raw": 1}}))
    assert read_arrays(folder) is None
