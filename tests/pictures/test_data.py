"""Data: real files of every kind, order as a function of (seed, k), bad files."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT
from picture_files import picture, write_mnist
from PIL import Image

from ldm import config
from ldm.errors import Refusal
from ldm.metrics.features import choose
from ldm.pictures.folders import ImageFolder
from ldm.pictures.images import CIFAR10, MNIST, Clothes, Digits, FashionMNIST
from ldm.system.batches import Shard, Slots, as_bytes, as_images, batch_indices


def test_batches_are_a_function_of_seed_and_k():
    n = 10
    epoch = [i for k in range(5) for i in batch_indices(k, 4, n, seed=1)]
    assert sorted(epoch[:10]) == list(range(n)) and sorted(epoch[10:]) == list(range(n))
    assert batch_indices(3, 4, n, 1) == epoch[12:16] != batch_indices(3, 4, n, 2)
    assert len(batch_indices(0, 64, 2, 0)) == 64  # two pictures are enough


def test_two_processes_read_what_one_reads_by_accumulating():
    one = list(Slots(100, 8, 0, steps=5, accumulate=2))
    ranks = [list(Slots(100, 8, 0, steps=5, rank=r, world=2)) for r in range(2)]
    assert one == [batch for pair in zip(*ranks, strict=True) for batch in pair]


def test_slots_resume_where_they_stopped():
    everything = list(Slots(100, 8, 0, steps=6, accumulate=2))
    assert list(Slots(100, 8, 0, steps=6, accumulate=2, first_step=lambda: 4)) == everything[8:]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_hold_every_row_once(world):
    rows = [i for rank in range(world) for batch in Shard(17, 4, rank, world) for i in batch]
    assert sorted(rows) == list(range(17))


def test_bytes_survive_the_round_trip():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(as_bytes(as_images({"image": image})), image)


def test_digits_split_is_fixed_and_disjoint():
    a, b = Digits().load(), Digits().load()
    assert (
        len(a.train) == 1500 and len(a.test) == 297 and torch.equal(a.train.images, b.train.images)
    )
    train = {x.numpy().tobytes() for x in a.train.images}
    assert sum(x.numpy().tobytes() in train for x in a.test.images) == 0


def test_the_clothes_in_the_package_are_clothes_with_their_labels():
    """By the classifier that judges them, which the config's `features` finds."""
    clothes = Clothes().load()
    assert len(clothes.train) == 9000 and len(clothes.test) == 1000
    assert clothes.shape == (1, 28, 28) and clothes.classes[8] == "Bag"
    train = {x.numpy().tobytes() for x in clothes.train.images}
    assert sum(x.numpy().tobytes() in train for x in clothes.test.images) == 0
    judge = choose("auto", Clothes.features)
    seen = judge.verdict(judge(clothes.test.images))
    assert judge.name == "fashion" and (seen == clothes.test.labels).float().mean() > 0.9


@pytest.mark.parametrize("ends", [("", "", "", ""), (".gz",) * 4, (".gz", "", "", ".gz")])
@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw"])
def test_idx_files_as_they_lie(tmp_path, ends, folder):
    x, y = write_mnist(tmp_path / folder, ends)
    images = FashionMNIST(root=str(tmp_path), download=False).load()
    assert (
        torch.equal(images.train.images[:, 0], torch.from_numpy(x))
        and images.train.labels.tolist() == y.tolist()
    )
    assert (
        images.shape == (1, 28, 28) and len(images.test) == 4 and images.classes[9] == "Ankle boot"
    )


def test_idx_truncated_or_foreign(tmp_path):
    write_mnist(tmp_path)
    whole = (tmp_path / MNIST.parts[0]).read_bytes()
    for bad in (whole[:-100], b"no idx file at all", b"", whole[:6]):
        (tmp_path / MNIST.parts[0]).write_bytes(bad)
        with pytest.raises(Refusal, match=rf"{MNIST.parts[0]} cannot be read"):
            MNIST(root=str(tmp_path)).load()


def test_missing_data_without_network_is_one_line(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST as Theirs

    monkeypatch.setattr(Theirs, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(Refusal, match=r"cannot be downloaded.*set data.root=DIR"):
        MNIST(root=str(tmp_path)).load()
    with pytest.raises(Refusal, match="no MNIST in"):
        MNIST(root=str(tmp_path), download=False).load()


def test_download_code_is_torchvisions(tmp_path, monkeypatch):
    """The real download path, from a server on this machine, with checksums of the small files that
    stand there.
    """
    import functools
    import hashlib
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from torchvision.datasets import MNIST as Theirs

    x, _ = write_mnist(tmp_path / "server", (".gz",) * 4)
    files = [tmp_path / "server" / f"{part}.gz" for part in MNIST.parts]
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "server")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Theirs, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(
        Theirs, "resources", [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in files]
    )
    images = MNIST(root=str(tmp_path / "here")).load()
    server.shutdown()
    assert torch.equal(images.train.images[:, 0], torch.from_numpy(x))


def test_cifar_binary_records(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 10, (4, 3073), dtype=np.uint8)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records.tofile(folder / name)
    images = CIFAR10(root=str(tmp_path), download=False).load()
    assert images.train.images.shape == (20, 3, 32, 32) and len(images.test) == 4
    assert images.train.labels[:4].tolist() == records[:, 0].tolist()
    assert images.train.images[0, 2, 31, 31] == records[0, -1]
    (folder / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(Refusal, match=r"test_batch\.bin cannot be read"):
        CIFAR10(root=str(tmp_path)).load()


def test_folder_of_any_pictures(tmp_path):
    picture(tmp_path / "cats" / "a.png", "RGBA", (70, 20))
    picture(tmp_path / "cats" / "deep" / "b.PNG", "P")
    picture(tmp_path / "dogs" / "c.jpg", "L", (5, 9))
    picture(tmp_path / "dogs" / "d.png", "1")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(
        tmp_path / "dogs" / "sixteen.png"
    )
    images = ImageFolder(root=str(tmp_path), size=16).load()
    assert images.classes == ("cats", "deep", "dogs") and images.shape == (3, 16, 16)
    batch = images.train.__getitems__(list(range(len(images.train))))
    assert batch["image"].shape[1:] == (3, 16, 16) and batch["image"].dtype == torch.uint8
    assert len(images.train) + len(images.test) == 5 or len(images.train) == 5


def test_transparency_lies_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    batch = ImageFolder(root=str(tmp_path), size=4).load().train.__getitems__([0])
    assert (batch["image"] == 255).all()


def test_grey_folder_is_grey_and_sixteen_bits_keep_their_range(tmp_path):
    Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)).save(
        tmp_path / "a.png"
    )
    picture(tmp_path / "b.png", "L")
    images = ImageFolder(root=str(tmp_path), size=8).load()
    assert images.shape == (1, 8, 8) and images.classes == ()
    pixels = images.train.__getitems__([0])["image"]
    assert pixels.min() == 0 and pixels.max() == 255 and pixels.float().mean().round() in (127, 128)


def test_two_pictures_are_enough(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    images = ImageFolder(root=str(tmp_path), size=8).load()
    assert len(images.train) >= 1 and len(images.test) >= 1


def test_corrupt_picture_is_named_once_and_skipped(tmp_path, capsys):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.png").write_bytes(b"no picture")
    data = ImageFolder(root=str(tmp_path), size=8, holdout=10**6).load().train
    for _ in range(3):
        assert data.__getitems__([0, 1, 2])["index"].tolist() == [0, 0, 0]
    said = capsys.readouterr().out
    assert said.count("1.png") == 1 and said.count("2.png") == 1 and "skipped" in said


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_and_labels_from_metadata(tmp_path, kind):
    rows = [
        {"file_name": f"{i}.png", "text": f"picture, {i}", "style": "ab"[i % 2]} for i in range(4)
    ]
    for row in rows:
        picture(tmp_path / row["file_name"])
    if kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        (tmp_path / "metadata.csv").write_text(
            "file_name,text,style\n"
            + "".join(f'{i}.png,"picture, {i}",{"ab"[i % 2]}\n' for i in range(4))
        )
    images = ImageFolder(root=str(tmp_path), size=8, label="style", holdout=10**6).load()
    batch = images.train.__getitems__([0, 1, 2, 3])
    assert batch["text"] == [r["text"] for r in rows] and batch["label"].tolist() == [0, 1, 0, 1]
    assert images.classes == ("a", "b")
    with pytest.raises(Refusal, match="no column 'sytle'"):
        ImageFolder(root=str(tmp_path), label="sytle").load()
    picture(tmp_path / "unlisted.png")
    with pytest.raises(Refusal, match=r"no column 'style' for .*unlisted.png"):
        ImageFolder(root=str(tmp_path), label="style").load()


def test_captions_are_held_out_and_columns_skipped(tmp_path):
    rows = [
        {"file_name": f"{i}.png", "text": ["a heart", "a star"][i % 2], "kind": "xyz"[i % 3]}
        for i in range(12)
    ]
    for row in rows:
        picture(tmp_path / row["file_name"])
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    given = {"root": str(tmp_path), "size": 8, "holdout": 10**6}
    images = ImageFolder(**given, hold=["a heart"], skip={"kind": ["y"]}).load()
    assert set(images.train.captions) == {"a star"} and set(images.held_out.captions) == {"a heart"}
    assert len(images.train) == len(images.held_out) == 4
    for wrong, refused in [
        ({"hold": ["a haert"]}, "did you mean 'a heart'"),
        ({"skip": {"kinds": ["y"]}}, "did you mean 'kind'"),
        ({"skip": {"kind": ["x", "y", "z"]}}, "leaves none"),
    ]:
        with pytest.raises(Refusal, match=refused):
            ImageFolder(**given, **wrong).load()


@pytest.mark.parametrize(
    "columns", [{"text": "a thing"}, {"caption": "red hat", "kind": "x"}, None]
)
def test_a_config_of_other_data_takes_a_folder_of_captions(columns, tmp_path, capsys):
    """README's text command with `data.root=DIR` on pictures of one's own: what it leaves out of
    the emoji is not there.
    """
    for i in range(6):
        picture(tmp_path / f"{i}.png")
        if columns is None:
            (tmp_path / f"{i}.txt").write_text(f"thing {i}")
    if columns:
        rows = [
            {"file_name": f"{i}.png"} | {k: f"{v} {i}" for k, v in columns.items()}
            for i in range(6)
        ]
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = config.load(
        ROOT / "configs/emoji/latent-cpu.yaml", [f"data.root={tmp_path}", "data.size=8"]
    ).data.load()
    said = capsys.readouterr().out
    assert len({*images.train.captions, *images.test.captions} - {""}) == 6
    assert (
        "no column 'category'" in said and "has a caption of data.hold, first: 'blue heart'" in said
    )


def test_no_pictures_is_refused_with_the_extensions_tried(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(Refusal, match=r"holds no pictures.*\.png .*\.webp"):
        ImageFolder(root=str(tmp_path)).load()
    with pytest.raises(Refusal, match="is not a folder"):
        ImageFolder(root=str(tmp_path / "nowhere")).load()
