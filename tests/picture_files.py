"""Files of pictures for tests: data sets as they lie, deep and odd pictures, and what is none."""

import os
import socket
import struct
import zlib
from io import BytesIO

import numpy as np
from helpers import write_idx
from PIL import Image, PngImagePlugin

from ldm.pictures.images import MNIST
from ldm.pictures.opening import PIXELS


def write_mnist(folder, ends=("", "", "", "")):
    rng = np.random.default_rng(0)
    x, y = (
        rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        rng.integers(0, 10, 12, dtype=np.uint8),
    )
    for part, array, end in zip(MNIST.parts, (x, y, x[:4], y[:4]), ends, strict=True):
        write_idx(folder / (part + end), array)
    return x, y


def picture(path, mode="RGB", size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(
        path
    )


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def tiff(path, array, bits, kind, order="<", raw=None):
    """A TIFF by hand: one strip, `kind` 1 unsigned, 2 signed, 3 float."""
    raw = array.tobytes() if raw is None else raw
    height, width = array.shape[:2]
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8 + 2 + 11 * 12 + 4),
    ]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, len(raw)), (284, 3, 1), (339, 3, kind)]
    head = (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(order + "I", 8)
        + struct.pack(order + "H", len(tags))
    )
    for tag, type_, value in tags:
        packed = struct.pack(
            order + ("HH" if type_ == 3 else "I"), *((value, 0) if type_ == 3 else (value,))
        )
        head += struct.pack(order + "HHI", tag, type_, 1) + packed
    path.write_bytes(head + struct.pack(order + "I", 0) + raw)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *more):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def bad_files(folder):
    """name: what is said of it."""
    good = png(8, 8)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 70_000_000, zip=True)
    Image.new("L", (8, 8)).save(folder / "text.png", pnginfo=text)
    files = {
        "empty.png": b"",
        "words.png": b"no picture",
        "cut.png": good[:-40],
        "bomb.png": png(30_000, 30_000),
    }
    files |= {
        "nothing.png": png(0, 8),
        "above.png": png(PIXELS, 2),
        "far.tif": b"II*\0\xff\xff\xff\x7f",
        "half.jpg": b"\xff\xd8\xff",
    }
    files |= {
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "page.pdf.png": b"%PDF-1.4\n",
    }
    files |= {"late.png": png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"y" * 5_000_000)))}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    for i in range(3):
        noise.save(buffer := BytesIO(), "png")
        files |= {f"short{i}.png": buffer.getvalue()[: 2000 + i]}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "null.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(folder / "s.png"))
    return [*files, "text.png", "folder.png", "pipe.png", "gone.png", "null.png", "s.png"]
