"""Configs and pictures of strangers: one line and status 2, soon; nothing is trained, and nothing
left on the disk.
"""

import struct
import sys
import time
import zlib
from itertools import pairwise

import numpy as np
import pytest
from helpers import TINY
from PIL import Image

from ldm import config
from ldm.errors import Refusal, guard
from ldm.pictures.folders import ImageFolder
from ldm.scripts import train

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in pairwise("abcdefghi")
)
FILES = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "a number": "3",
    "text": "hello",
    "null": "null",
    "tabs": "a:\n\t- b",
    "half": "data: {name: Digits",
    "twice": "name: a\nname: b\n",
    "two documents": "name: a\n---\nname: b\n",
    "binary": "\x00\x01\x02",
    "anchors": LAUGHS,
    "deep": "a: " + "[" * 2000 + "]" * 2000,
    "deeper": "a: " + "{a: " * 5000 + "1" + "}" * 5000,
    "a loop": "a: &a [*a]",
    "python": "name: !!python/object/apply:os.system ['touch ran']",
    "tag": "name: !!binary aGk=",
    "merge": "<<: {name: a, nonsense: 1}",
    "number keys": "1: 2",
    "null key": "null: 2",
    "list key": "[1, 2]: 3",
    "base itself": "base: c.yaml",
    "base folder": "base: .",
    "base missing": "base: nowhere.yaml",
    "base device": "base: /dev/zero",
    "base fifo": "base: fifo",
    "base list": "base: [a, b]",
    "base number": "base: 3",
    "base root": "base: /",
    "secret": "name: ${oc.env:HOME}",
    "loop of words": "name: ${name}",
    "long name": f"name: {'x' * 5000}",
    "escape": 'name: "\\e[2Jx"',
    "null byte": 'name: "a\\0b"',
    "bom": "\ufeffnonsense: 1",
    "unknown key": "nam: x",
}
VALUES = {
    "seed": ["-1", "x", "1.5", "null", "[1]", "true", "1e400", "9" * 400],
    "output": ["[]", "{}", '"a\\0b"', "/dev/null/x"],
    "data": [
        "Nope",
        "3",
        "[]",
        "null",
        "{name: 3}",
        "{nam: Digits}",
        "{name: ImageFolder, root: /dev/zero}",
    ],
    "data.batch_size": ["0", "-1", "x", "1.5", "null", "[]", "nan"],
    "data.workers": ["-1", "x", "null"],
    "network": ["Nope", "3", "null", "{name: os.system}", "SetTransformer"],
    "network.channels": [
        "[]",
        "[0]",
        "[-8]",
        "[x]",
        "3",
        "null",
        "[7]",
        "[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]",
    ],
    "network.layers": ["0", "-1", "x", "1000000", "1.5"],
    "network.attention": ["[3]", "[-9]", "x", "[1000000]"],
    "network.dropout": ["1", "-0.1", "nan", "x"],
    "schedule": [
        "Nope",
        "3",
        "[]",
        "{name: Discrete, steps: 0}",
        "{name: Discrete, steps: 99999999999}",
    ],
    "loss.predict": ["noise", "3", "null", "[]"],
    "optim.lr": ["0", "-1", "nan", "inf", "x", "null", "[]"],
    "optim.ema": ["1", "-0.5", "nan", "x"],
    "optim.betas": ["[1, 1]", "[0.9]", "[a, b]", "3"],
    "sample.steps": ["0", "-1", "x", "1000000000000"],
    "sample.count": ["0", "-1", "99999999999"],
    "sample.batch_size": ["0", "99999999999", "x"],
    "sample.guidance": ["nan", "inf", "x", "null"],
    "sample.interval": ["[1, 0]", "[nan, 1]", "[0]", "x"],
    "sample.solver": ["Nope", "3", "{name: Euler, typo: 1}"],
    "trainer.max_steps": ["0", "-1", "x", "1.5", "null"],
    "trainer.devices": ["0", "x", "[]", "-5x"],
    "trainer.accelerator": ["gpuu", "3"],
    "trainer.precision": ["16", "fp8", "3"],
    "trainer.options": ["{typo: 1}", "3", "{max_steps: 3}", "[]"],
    "logger.kind": ["wandbb", "3", "null"],
    "logger.mode": ["onlin", "3"],
    "condition": ["maybe", "text", "3"],
    "space": [
        "Nope",
        "Latents",
        "{name: Latents, autoencoder: /dev/zero}",
        "{name: Latents, autoencoder: nowhere}",
    ],
    "typo": ["1"],
    "data.typo": ["1"],
    "": ["1"],
    "..": ["1"],
    "a..b": ["1"],
    "name": ["${oc.env:HOME}", "..", "a/b", "[]", "{}", "null"],
}
PAIRS = [(key, value) for key, values in VALUES.items() for value in values]


def refused(words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    before, begun = sorted(folder.rglob("*")), time.monotonic()
    with pytest.raises(SystemExit) as end:
        guard(train.main)
    out = capsys.readouterr()
    lines = [line for line in out.err.splitlines() if line.strip()]
    assert end.value.code == 2 and time.monotonic() - begun < 20, out
    assert (
        lines[-1].startswith("error: ") and "Traceback" not in out.err and len(lines[-1]) < 2200
    ), out.err[-3000:]
    assert "\x1b" not in out.err and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("case", FILES)
def test_a_config_file(case, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(FILES[case])
    if case == "base fifo":
        import os

        os.mkfifo(tmp_path / "fifo")
    refused(["--config", "c.yaml", "--dry-run"], tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("key, value", PAIRS)
def test_an_override(key, value, tmp_path, monkeypatch, capsys):
    output = [] if key == "output" else ["output=out"]
    words = [
        "--config",
        str(TINY / "pixel.yaml"),
        "--dry-run",
        *output,
        "logger.mode=disabled",
        "trainer.accelerator=cpu",
    ]
    refused([*words, f"{key}={value}"], tmp_path, monkeypatch, capsys)


def test_bytes_that_are_no_text(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00name: x")
    refused(["--config", "c.yaml"], tmp_path, monkeypatch, capsys)


# -- pictures --------------------------------------------------------------------------------------
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=bytes(1000), bits=8, colour=2, more=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + end


PICTURES = {
    "wide": png(1_000_000, 1),
    "high": png(1, 1_000_000),
    "huge": png(60_000, 60_000),
    "largest": png(2**31 - 1, 2**31 - 1),
    "no size": png(0, 0),
    "cut": png(64, 64)[:60],
    "bits": png(8, 8, bits=3),
    "text": png(8, 8, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    "profile": png(8, 8, more=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    "empty": b"",
    "not one": b"hello",
    "html": b"<html>",
    "gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
    "bmp": b"BM" + b"\xff" * 60,
    "tiff": b"II*\x00\xff\xff\xff\x7f",
    "tiff of many": b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x01" * 500,
    "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 100,
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\xff" * 100,
    "ppm": b"P6 100000 100000 255 ",
    "ppm of words": b"P6 x y z",
    "pgm of 16": b"P5 99999999999999999999 1 65535 ",
    "psd": b"8BPS\x00\x01" + b"\xff" * 40,
    "ico": b"\x00\x00\x01\x00\xff\xff" + b"\xff" * 40,
}
SUFFIX = {
    "gif": ".gif",
    "bmp": ".bmp",
    "tiff": ".tif",
    "tiff of many": ".tif",
    "webp": ".webp",
    "jpeg": ".jpg",
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_among_others_is_left_out(case, tmp_path):
    """Training goes on with those that can be read; where there is none, it says so."""
    for i in range(12):
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(tmp_path / f"{i:02}.png")
    (tmp_path / f"00a{SUFFIX.get(case, '.png')}").write_bytes(PICTURES[case])
    images = ImageFolder(root=str(tmp_path), size=8, holdout=100, channels=3).load()
    batch = images.train.__getitems__(list(range(len(images.train))))
    assert (
        batch["image"].shape[1:] == (3, 8, 8) and np.isfinite(batch["image"].float().numpy()).all()
    )
    assert len(batch["image"]) >= 10


@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_alone_is_one_line(case, tmp_path):
    (tmp_path / f"00a{SUFFIX.get(case, '.png')}").write_bytes(PICTURES[case])
    with pytest.raises(Refusal):
        images = ImageFolder(root=str(tmp_path), size=8, channels=3).load()
        images.train.__getitems__([0])
        assert case in ("text", "profile", "high")  # whole but for what it carries along
        raise Refusal("read")


LINES = [
    "{",
    "[]",
    "3",
    "null",
    '{"file_name": 3}',
    '{"file_name": null}',
    '{"text": "x"}',
    "[" * 50_000,
    "\xff",
]
LINES += ['{"file_name": "/etc/passwd", "text": "x"}', '{"file_name": "../../x"}', "x" * 5_000_000]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:30])
def test_metadata_that_is_none(line, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text(
        line + "\n", encoding="latin-1" if line == "\xff" else "utf-8"
    )
    begun = time.monotonic()
    try:
        ImageFolder(root=str(tmp_path), size=8).load()
    except Refusal as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    assert time.monotonic() - begun < 10


def test_a_config_is_not_a_place_for_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(FILES["python"])
    with pytest.raises(Refusal):
        config.load("c.yaml")
    assert not (tmp_path / "ran").exists()
