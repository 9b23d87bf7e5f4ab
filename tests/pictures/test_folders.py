"""A person's own folder as disks and spreadsheets make it: the right pictures and words, the rest
counted and named.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, here, overrides
from picture_files import RAMP, bad_files, tiff
from PIL import Image

from ldm.errors import Refusal
from ldm.pictures.folders import ImageFolder
from ldm.system.batches import loader


def picture(path, value=100, mode="L", side=8, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value).save(path, **more)
    return path


def load(root, holdout=10**6, **given):
    return ImageFolder(root=str(root), size=8, holdout=holdout, **given).load()


def names(images, root):
    sets = {id(s): s for s in (images.train, images.test)}.values()
    return sorted(p.path.relative_to(root).as_posix() for s in sets for p in s.pictures)


def texts(images, root):
    return {p.path.relative_to(root).as_posix(): p.text for p in images.train.pictures}


def said(capsys):
    return [
        line.removeprefix("data: ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("data: ")
    ]


# -- which files -----------------------------------------------------------------------------------
def test_hidden_and_system_entries_are_no_classes(tmp_path, capsys):
    for name in ("cats/a.png", "dogs/b.png"):
        picture(tmp_path / name)
    for name in (
        ".ipynb_checkpoints/a-checkpoint.png",
        "cats/._a.png",
        "__MACOSX/cats/a.png",
        "dogs/@eaDir/b.png",
        ".git/x.png",
    ):
        picture(tmp_path / name)
    images = load(tmp_path)
    assert images.classes == ("cats", "dogs") and names(images, tmp_path) == [
        "cats/a.png",
        "dogs/b.png",
    ]
    out = said(capsys)
    assert (
        "5 hidden or system entries are left out, first: .git" in out
        and "2 classes: cats 1, dogs 1" in out
    )


def test_a_hidden_root_is_a_persons_own(tmp_path):
    picture(tmp_path / ".cache" / "a.png")
    assert len(load(tmp_path / ".cache").train) == 1


def test_links_are_followed_and_never_round(tmp_path, capsys):
    root = tmp_path / "root"
    picture(tmp_path / "elsewhere" / "a.png")
    picture(root / "dogs" / "b.png")
    picture(tmp_path / "one.png")
    for name, target in {
        "cats": tmp_path / "elsewhere",
        "dogs/up": root,
        "dogs/above": tmp_path,
        "same": root / "dogs",
        "dogs/one.png": tmp_path / "one.png",
        "dead.png": tmp_path / "nowhere",
        "cats/round": root,
        "self.png": "self.png",
    }.items():
        (root / name).symlink_to(target)
    images = load(root)
    assert images.classes == ("cats", "dogs") and names(images, root) == [
        "cats/a.png",
        "dogs/b.png",
        "dogs/one.png",
    ]
    out = said(capsys)
    assert any(line.startswith("4 links or folders lead where we have been") for line in out)
    assert "2 links lead nowhere, first: dead.png" in out


def test_a_linked_root_and_links_that_lead_to_each_other(tmp_path):
    for a, b in ("ab", "ba"):
        picture(tmp_path / a / f"{a}.png")
        (tmp_path / a / "other").symlink_to(tmp_path / b)
    (tmp_path / "root").symlink_to(tmp_path / "a")
    images = load(tmp_path / "root")
    assert names(images, tmp_path / "root") == ["a.png", "other/b.png"]


def test_kinds_of_files(tmp_path, capsys):
    """Read by what they are where the name says nothing; what is not read is named by kind and
    number.
    """
    for name in ("a.jfif", "b.ico", "c", "d.part", "e.TIF"):
        picture(
            tmp_path / name,
            side=16,
            format="TIFF" if name[0] == "e" else "ICO" if name[0] == "b" else "JPEG",
        )
    for name in ("x.svg", "y.svg", "z.mp4", "README", "notes.txt"):
        (tmp_path / name).write_text("<svg/>")
    images = load(tmp_path)
    assert names(images, tmp_path) == ["a.jfif", "b.ico", "c", "d.part", "e.TIF"]
    (line,) = [line for line in said(capsys) if line.startswith("not read")]
    assert all(
        word in line
        for word in ("2 .svg", "1 .mp4", "1 without an extension", "1 .txt", "first: README")
    )


def test_what_cannot_be_read_is_named_once_and_left_out(tmp_path, capfd):
    """Of every kind, by training's own workers too, and without a traceback."""
    bad = bad_files(tmp_path)
    good = [picture(tmp_path / f"good{i}.png", 10 * i) for i in range(4)]
    images = load(tmp_path)
    for batch in loader(images.train, [[*range(len(images.train))]] * 4, workers=2, pin=False):
        assert {int(v) for v in batch["image"].flatten()} == {0, 10, 20, 30}
    out = capfd.readouterr()
    for name in (
        "empty.png",
        "words.png",
        "cut.png",
        "bomb.png",
        "late.png",
        "text.png",
        "short0.png",
        "short2.png",
    ):
        assert out.out.count(f"/{name} cannot be read") == 1, name
    assert (
        "pictures cannot be read and are left out" in out.out
        and "Traceback" not in out.out + out.err
    )
    assert "2 pipes, sockets or devices" in out.out or "3 pipes, sockets or devices" in out.out
    assert len(good) + len(bad) > len(images.train) >= len(good)


@pytest.mark.parametrize("late", [False, True])
def test_nothing_but_bad_pictures_is_a_refusal(tmp_path, late):
    for i in range(3):
        whole = picture(tmp_path / f"{i}.png").read_bytes()
        (tmp_path / f"{i}.png").write_bytes(whole[:-25] if late else b"no")
    with pytest.raises(Refusal, match=r"none of the 3 pictures.* can be read"):
        load(tmp_path)


GONE = """
from ldm.system.batches import loader
from ldm.pictures.folders import ImageFolder
from ldm.errors import guard
from pathlib import Path
images = ImageFolder(root="{0}", size=8).load()
for file in Path("{0}").iterdir():
    file.unlink()
guard(lambda: [*loader(images.train, [[0, 1]], workers=2, pin=False)])
"""


def test_pictures_that_are_gone_are_one_line_from_a_worker_and_no_hang(tmp_path):
    """torch wraps a worker's error in its traceback, and a worker ignores the signal by which
    Python ends it.
    """
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    command = [sys.executable, "-c", GONE.format(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(
        "error: data.root: none of the 3 pictures can be read"
    )


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_nothing_but_bad_pictures_is_one_line(tmp_path, late):
    """Those that fail when they are opened, and those that fail when they are decoded."""
    for i in range(3):
        whole = picture(tmp_path / f"{i}.png").read_bytes()
        (tmp_path / f"{i}.png").write_bytes(whole[:-25] if late else b"no")
    done = here(
        "train.py",
        "--config",
        "tests/configs/pixel.yaml",
        *overrides("pixel", tmp_path / "o"),
        folder(tmp_path, 2),
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "none of the 3 pictures" in done.stderr and not (tmp_path / "o").exists()


def folder(root, workers):
    return f"data={{name: ImageFolder, root: {root}, size: 8, batch_size: 4, workers: {workers}}}"


def test_a_name_of_two_lines_is_said_in_one(tmp_path, capsys):
    picture(tmp_path / "a.png")
    (tmp_path / "bad\nerror: \x1b[2J.png").write_bytes(b"no")
    load(tmp_path)
    assert any("bad\\x0aerror: \\x1b[2J.png cannot be read" in line for line in said(capsys))


def test_names_that_are_no_utf8(tmp_path, capsys):
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)
    with open(raw + b"/\xff.png", "wb") as file:
        Image.new("L", (8, 8), 7).save(file, "png")
    picture(tmp_path / "tea" / "b.png")
    images = load(tmp_path, holdout=2)
    assert images.classes == ("caf\\xe9", "tea") and json.dumps(images.classes).isascii()
    images.train.fingerprint()


# -- grey, colour, range ---------------------------------------------------------------------------
def test_one_colour_picture_after_many_grey_ones(tmp_path, capsys):
    for i in range(205):
        picture(tmp_path / f"{i:03d}.png")
    assert load(tmp_path).shape[0] == 1
    picture(tmp_path / "zz.png", "red", "RGB")
    capsys.readouterr()
    assert load(tmp_path).shape[0] == 3
    assert any(
        line.startswith("1 of 206 pictures are in colour, first: ") and "zz.png" in line
        for line in said(capsys)
    )
    assert load(tmp_path, channels=1).shape[0] == 1
    assert any(line.startswith("1 pictures in colour are made grey") for line in said(capsys))


def test_the_range_is_one_for_all(tmp_path, capsys):
    for name, top in (("dark", 10), ("bright", 100)):
        tiff(tmp_path / f"{name}.tif", (RAMP * top).astype("<f4"), 32, 3)
    Image.fromarray((RAMP * 6553.5).astype(np.uint16)).save(tmp_path / "sixteen.png")
    images = load(tmp_path)
    bright, dark, sixteen = images.train.__getitems__([0, 1, 2])["image"].amax((1, 2, 3)).tolist()
    assert bright == 255 and 24 <= dark <= 27 and 24 <= sixteen <= 27
    out = "\n".join(said(capsys))
    assert (
        "2 pictures of 32 bits are read from 0 to 100, found over all" in out
        and "1 pictures of 16 bits" in out
    )
    assert images.about() == {"fit": "crop", "range": None, "found": [0.0, 100.0]}
    stated = load(tmp_path, range=(0, 10))
    assert stated.train.__getitems__([1])["image"].max() == 255 and stated.about()["range"] == [
        0,
        10,
    ]
    assert images.train.fingerprint() != stated.train.fingerprint()
    with pytest.raises(ValueError, match=r"\[BLACK, WHITE\]"):
        ImageFolder(range=(1, 1))


def test_small_pictures_are_said_to_be_enlarged(tmp_path, capsys):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", side=7)
    load(tmp_path)
    assert any(
        line.startswith("1 of 2 pictures are smaller than 8 pixels") and "b.png" in line
        for line in said(capsys)
    )


def test_animations_are_said(tmp_path, capsys):
    picture(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    picture(tmp_path / "b.png")
    load(tmp_path)
    assert any(line.startswith("1 pictures are animated or stacks") for line in said(capsys))


# -- tables ----------------------------------------------------------------------------------------
ROWS = [("a.png", "Schöner Hund"), ("sub/b.png", "a cat; grey, old")]


def four(root):
    for name in ("a.png", "sub/b.png"):
        picture(root / name)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_spreadsheets_table(tmp_path, encoding, separator, end, capsys):
    four(tmp_path)
    lines = [separator.join(("file_name", "text", "style"))]
    lines += [
        separator.join((name.replace("/", "\\"), f'"{text}"', "x")) for name, text in ROWS
    ] + [separator * 2]
    (tmp_path / "metadata.csv").write_bytes(end.join(lines).encode(encoding))
    images = load(tmp_path, label="style")
    assert texts(images, tmp_path) == dict(ROWS)
    assert any("Windows-1252" in line for line in said(capsys)) == (encoding == "cp1252")


@pytest.mark.parametrize("file", ["file_name", "file", "filename", "image", "File_Name", "path"])
@pytest.mark.parametrize("column", ["text", "caption", "Caption"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_by_their_usual_names(tmp_path, file, column, kind):
    four(tmp_path)
    if kind == "csv":
        (tmp_path / "metadata.csv").write_text(
            f"{column},{file}\n" + "".join(f'"{t}",{n}\n' for n, t in ROWS), "utf-8"
        )
    else:
        (tmp_path / "metadata.jsonl").write_text(
            "".join(json.dumps({file: n, column: t}) + "\n" for n, t in ROWS)
        )
    assert texts(load(tmp_path), tmp_path) == dict(ROWS)


def test_the_column_of_captions_is_chosen(tmp_path):
    four(tmp_path)
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,long\na.png,dog,a big dog\nsub/b.png,cat,a small cat\n"
    )
    assert set(texts(load(tmp_path, caption="long"), tmp_path).values()) == {
        "a big dog",
        "a small cat",
    }
    with pytest.raises(Refusal, match=r"data.caption: 'lnog' is not one of .*did you mean 'long'"):
        load(tmp_path, caption="lnog")


def test_null_is_nothing_and_numbers_are_words(tmp_path, capsys):
    four(tmp_path)
    rows = [
        {"file_name": "a.png", "text": None, "n": 1},
        {"file_name": "sub/b.png", "text": "x\u2028y", "n": 2},
    ]
    (tmp_path / "metadata.jsonl").write_text(
        "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8"
    )
    images = load(tmp_path, label="n")
    assert texts(images, tmp_path) == {"a.png": "", "sub/b.png": "x\u2028y"} and images.classes == (
        "1",
        "2",
    )
    assert "1 picture has no caption, first: a.png" in said(capsys)


def test_rows_without_pictures_and_pictures_without_rows(tmp_path, capsys):
    four(tmp_path)
    (tmp_path / "metadata.csv").write_text(
        "file_name,text\na.png,dog\ngone.png,x\n../up.png,y\n/etc/passwd,z\na.png,hound\n"
    )
    assert texts(load(tmp_path), tmp_path) == {"a.png": "hound", "sub/b.png": ""}
    out = said(capsys)
    assert "3 rows of metadata.csv name no picture, first: gone.png (line 3)" in out
    assert "1 picture has no row in the metadata, first: sub/b.png" in out
    assert "1 picture has a second row, which counts, first: a.png" in out


def test_a_macs_letters_are_those_of_others(tmp_path):
    picture(tmp_path / "cafe\u0301.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncaf\u00e9.png,coffee\n", "utf-8")
    assert list(texts(load(tmp_path), tmp_path).values()) == ["coffee"]


BROKEN = {
    "json": ("jsonl", '{"file_name": "a.png"}\n{"file_name": \n', "line 2: not JSON"),
    "array": ("jsonl", '[{"file_name": "a.png"}]', "line 1: a row is one object a line"),
    "no-name": (
        "jsonl",
        '{"file_name": "a.png"}\n\n{"text": "x"}',
        "line 3: every row needs a file_name",
    ),
    "number": ("jsonl", '{"file_name": 5}', "line 1: file_name is 5"),
    "deep": ("jsonl", "[" * 100_000, "line 1: not JSON"),
    "list": (
        "jsonl",
        '{"file_name": "a.png", "text": ["x", "y"]}',
        "line 1: column 'text' holds a list",
    ),
    "fields": (
        "csv",
        "file_name,text\na.png,a dog, old\n",
        "line 2: 3 fields, the first line has 2",
    ),
    "columns": ("csv", "name,text\na.png,x\n", "line 2: every row needs a file_name"),
    "twice": ("csv", "file_name,text,text\na.png,x,y\n", "two columns are called 'text'"),
    "empty-name": ("csv", "file_name,text\n,x\n", "line 2: file_name is ''"),
    "huge": ("csv", "file_name,text\na.png," + "x" * 200_000 + "\n", "line 2: field larger"),
    "binary": ("csv", b"\xff\xfe\x00", "in no encoding"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named_by_its_number(tmp_path, case):
    end, content, message = BROKEN[case]
    four(tmp_path)
    (tmp_path / f"metadata.{end}").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(Refusal, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_captions_beside_pictures(tmp_path, capsys):
    four(tmp_path)
    (tmp_path / "a.txt").write_text(" a dog\nthat runs\n")
    (tmp_path / "sub" / "b.txt").write_bytes("Kätzchen".encode("utf-16"))
    (tmp_path / "readme.txt").write_text("not one")
    assert texts(load(tmp_path), tmp_path) == {"a.png": "a dog that runs", "sub/b.png": "Kätzchen"}
    assert "not read: 1 .txt, first: readme.txt" in said(capsys)


# -- classes and what is held out ------------------------------------------------------------------
def test_places_that_are_labels(tmp_path, capsys):
    for name in ("cats/cartoon/1.png", "cats/photo/2.png", "dogs/cartoon/3.png"):
        picture(tmp_path / name)
    assert load(tmp_path).classes == ("cartoon", "photo")
    assert any(
        "2 folders called 'cartoon' are one class (cats/cartoon, dogs/cartoon)" in line
        for line in said(capsys)
    )
    assert load(tmp_path, label="top").classes == ("cats", "dogs")
    assert "2 classes: cats 2, dogs 1" in said(capsys)
    assert load(tmp_path, label="path").classes == ("cats/cartoon", "cats/photo", "dogs/cartoon")


def test_never_the_last_of_a_class_is_held_out(tmp_path):
    for c in range(12):
        for i in range(1 + c % 3):
            picture(tmp_path / f"class{c:02d}" / f"{i}.png")
    images = load(tmp_path, holdout=2)
    assert {p.label for p in images.train.pictures} == set(range(12))
    assert len(images.train) + len(images.test) == 24 and not {
        p.path for p in images.train.pictures
    } & {p.path for p in images.test.pictures}


def test_a_large_class_is_never_held_out_by_none(tmp_path):
    for c in range(30):
        for i in range(10):
            picture(tmp_path / f"class{c:02d}" / f"{i}.png")
    images = load(tmp_path, holdout=10)
    assert (
        {p.label for p in images.test.pictures}
        == {p.label for p in images.train.pictures}
        == set(range(30))
    )


def test_panels_are_spread_over_the_held_out(tmp_path):
    for c in range(4):
        for i in range(30):
            picture(tmp_path / f"class{c}" / f"{i}.png", 50 * c)
    images = load(tmp_path, holdout=3)
    assert sorted(set(images.shown(8)[:, 0, 0, 0].tolist())) == [0, 50, 100, 150]
    assert images.shown(10**6).shape[0] == len(images.test)


@pytest.mark.slow
def test_a_checkpoint_keeps_how_its_pictures_were_read(tmp_path):
    """Trained on floats with pad, a task reads the same picture the same."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        tiff(tmp_path / "in" / f"{i}.tif", (RAMP[:4] * 2 * (i + 1)).astype("<f4"), 32, 3)
    data = f"data={{name: ImageFolder, root: {tmp_path / 'in'}, size: 8, batch_size: 4, fit: pad}}"
    done = here(
        "train.py",
        "--config",
        "tests/configs/pixel.yaml",
        *overrides("pixel", tmp_path / "o"),
        data,
    )
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "o" / "tiny-pixel" / "last.ckpt", weights_only=True)["ldm"][
        "view"
    ]["found"] == [
        0,
        float(np.float32(31 / 63 * 8)),
    ]
    given = (
        "--task",
        "edit",
        "--strength",
        "0.01",
        "--image",
        tmp_path / "in" / "0.tif",
        "--device",
        "cpu",
    )
    done = here(
        "sample.py",
        "--checkpoint",
        tmp_path / "o" / "tiny-pixel",
        *given,
        "--output",
        tmp_path / "s",
    )
    assert done.returncode == 0 and "padded with white" in done.stdout, done.stderr
    made = np.asarray(Image.open(tmp_path / "s" / "0-00000000.png")).astype(int)
    assert made[:1].min() > 200 and made[2:6].max() < 110  # dark beside the others, as in training
