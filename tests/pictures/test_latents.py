"""The latent cache: what it holds, that training on it is training, and that a stale or damaged one
is not met.
"""

import errno
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, largest_difference, load, overrides, run_config, script

from ldm.errors import Refusal
from ldm.pictures import latents as data_latents
from ldm.pictures.given import Given, from_dataset
from ldm.pictures.images import Digits
from ldm.pictures.latent_writer import Writer
from ldm.pictures.latents import LatentCache, cache_folder, checksums, open_cache
from ldm.sampling.model import load_autoencoder, restore
from ldm.system.batches import as_images, loader
from ldm.system.randomness import generator
from ldm.training import latents
from ldm.training.diffusion import DiffusionModule
from ldm.training.run import train_run

FLIP = "data.flip=true"


def trained(output, stage1, *more, stage="latent"):
    folder = train_run(run_config(stage, output, f"space.autoencoder={stage1}", *more))
    return load(folder / "last.ckpt")


def mean_difference(a, b):
    gaps = torch.cat([(a[k].double() - b[k].double()).abs().flatten() for k in a])
    return gaps.mean().item()


def caches(output):
    return sorted((output / "latents").iterdir())


@pytest.fixture(scope="module")
def cached(stage1, tmp_path_factory):
    """A folder with a run on mirrored digits, its state, and its cache."""
    output = tmp_path_factory.mktemp("cached")
    state = trained(output, stage1, FLIP)
    (folder,) = caches(output)
    return output, state, folder


def test_it_holds_every_pictures_posterior_in_both_orientations(cached, stage1):
    found, pictures = open_cache(cached[2]), Digits().load().train
    assert len(found) == len(pictures) == 1500
    autoencoder = load_autoencoder(stage1 / "best.ckpt")[0]
    rows = [0, 7, 1499]
    batch, image = found.__getitems__(rows), as_images(pictures.__getitems__(rows))
    assert batch["moments"].shape[:2] == (3, 2) and torch.equal(
        batch["label"], pictures.labels[rows]
    )
    with torch.no_grad():
        for i, x in enumerate((image, image.flip(-1))):
            torch.testing.assert_close(
                batch["moments"][:, i].float(), autoencoder.encode(x), rtol=1e-3, atol=1e-3
            )
    assert not torch.allclose(batch["moments"][:, 0], batch["moments"][:, 1], atol=0.01)


@pytest.mark.slow
def test_training_on_it_is_training_on_the_pictures(cached, stage1, tmp_path):
    """The same rows, mirrored alike, with the same noise: the weights differ by the rounding to 16
    bits alone.
    """
    plain = trained(tmp_path, stage1, FLIP, "space.cache=false")
    assert not (tmp_path / "latents").exists()
    unmirrored = trained(tmp_path, stage1, "name=unmirrored", "space.cache=false")
    # the mean: Adam's first steps are a sign, which rounding turns where a gradient is next to none
    near, far = (
        mean_difference(state["state_dict"], plain["state_dict"])
        for state in (cached[1], unmirrored)
    )
    assert near < 2e-5 and near < 0.05 * far, (near, far)


@pytest.mark.slow
def test_a_second_run_finds_it(cached, stage1, capsys):
    output, state, folder = cached
    before = (folder / "moments.npy").stat().st_mtime_ns
    again = trained(output, stage1, FLIP, "name=again")
    assert caches(output) == [folder] and (folder / "moments.npy").stat().st_mtime_ns == before
    assert largest_difference(again["state_dict"], state["state_dict"]) == 0
    whole = (folder / "moments.npy").read_bytes()
    sums = (folder / "sums.npy").read_bytes()
    parts = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r+")
        for name in ("moments", "label", "index", "sums")
    }
    parts["moments"][:, :, 0] = 3  # it is what training reads, not the pictures
    parts["sums"][:] = checksums(parts)
    other = trained(output, stage1, FLIP, "name=other")
    assert mean_difference(other["state_dict"], state["state_dict"]) > 1e-4
    (folder / "moments.npy").write_bytes(whole)
    (folder / "sums.npy").write_bytes(sums)
    trained(output, stage1, "name=unmirrored")
    assert len(caches(output)) == 2  # without mirror images it is another


def test_of_the_device_it_is_the_same(cached, stage1, monkeypatch):
    monkeypatch.setattr(latents, "fits", lambda cache, device: True)
    output, state, _ = cached
    assert (
        largest_difference(
            trained(output, stage1, FLIP, "name=table")["state_dict"], state["state_dict"]
        )
        == 0
    )


def test_whitened_latents_have_mean_0_and_std_1(cached):
    model, found = restore(cached[0] / "tiny-latent"), open_cache(cached[2])
    space = model.space
    draw = lambda shape: torch.randn(shape, generator=generator("test"))
    data = space.read(found.__getitems__(list(range(1500))))
    x_0 = space.encode(data, draw)
    assert x_0.mean((0, 2, 3)).abs().max() < 0.02 and (x_0.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_other_autoencoders_data_and_orientations_are_other_caches(cached, tmp_path):
    data = Digits().load().train
    keys = {
        cache_folder(tmp_path, a, d, o)
        for a in "ab"
        for d in (data.fingerprint(), "other")
        for o in (1, 2)
    }
    assert len(keys) == 8
    data.images[3, 0, 2, 2] += 1
    changed = data.fingerprint()
    data.images[3, 0, 2, 2] -= 1
    data.labels[5] += 1
    assert (
        len({Digits().load().train.fingerprint(), changed, data.fingerprint()}) == 3
    )  # labels are kept too


def test_damaged_or_half_written_it_is_made_again(cached, stage1, capsys):
    output, state, folder = cached
    whole = (folder / "moments.npy").read_bytes()
    (folder / "moments.npy").write_bytes(whole[:-100])
    assert open_cache(folder) is None and "damaged" in capsys.readouterr().out
    again = trained(output, stage1, FLIP, "name=mended")
    assert (folder / "moments.npy").read_bytes() == whole
    assert largest_difference(again["state_dict"], state["state_dict"]) == 0
    about = (folder / "about.json").read_text()
    (folder / "about.json").unlink()  # the mark of a whole one
    assert open_cache(folder) is None
    (folder / "about.json").write_text(about)


@pytest.mark.parametrize(
    "name, at", [("moments", -1), ("moments", 5000), ("label", -300), ("index", 200), ("sums", -7)]
)
def test_one_flipped_bit_is_found(cached, name, at, capsys, monkeypatch):
    """When it is opened; and, in a file that is too large to be looked at whole, when the row is
    read.
    """
    _, _, folder = cached
    path, about = folder / f"{name}.npy", (folder / "about.json").read_text()
    whole = path.read_bytes()
    rows = open_cache(folder)
    (part,) = rows.parts[name].parts
    place = (at if at >= 0 else len(whole) + at) - part.offset
    row = place // part[0].nbytes
    spoilt = bytearray(whole)
    spoilt[at] ^= 1
    path.write_bytes(spoilt)
    assert open_cache(folder) is None and "a row is not what was written" in capsys.readouterr().out
    monkeypatch.setattr(data_latents, "CHECKED", 1)  # the first row alone
    found = open_cache(folder)
    found.__getitems__([i for i in range(len(found)) if i != row])
    with pytest.raises(Refusal, match=r"has changed since it was written .* --resume"):
        found.__getitems__([3, row])
    assert open_cache(folder) is None  # the next run makes it anew
    path.write_bytes(whole)
    (folder / "about.json").write_text(about)
    assert open_cache(folder) is not None


def test_a_flipped_bit_is_not_trained_on(cached, stage1, capsys):
    output, state, folder = cached
    whole = (folder / "moments.npy").read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 64
    (folder / "moments.npy").write_bytes(spoilt)
    again = trained(output, stage1, FLIP, "name=flipped")
    assert (
        "computed again" in capsys.readouterr().out
        and (folder / "moments.npy").read_bytes() == whole
    )
    assert largest_difference(again["state_dict"], state["state_dict"]) == 0


def test_what_a_killed_writer_left_is_taken_away_and_a_live_ones_is_not(tmp_path):
    folder = tmp_path / "latents" / "a"
    command = [sys.executable, "-c", KILLED, str(folder)]
    assert (
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode
        == -signal.SIGKILL
    )
    (left,) = folder.parent.glob("*.partial")
    live = Writer(folder, Path(Writer.beside(folder)))
    live.begin()
    assert not left.exists() and live.partial.exists()
    other = Writer(folder, Path(Writer.beside(folder)))
    other.begin()
    assert live.partial.exists() and other.partial.exists()
    for writer in (live, other):
        writer.open(range(4), (1, 4, 2, 2))
        rows = [*range(4)], torch.zeros(4, 1, 4, 2, 2), torch.arange(4), torch.arange(4)
        writer.put(*rows)
        writer.close()
        writer.end()
    assert [path.name for path in folder.parent.iterdir()] == ["a"] and len(open_cache(folder)) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
from ldm.pictures.latent_writer import Writer
writer = Writer(Path(sys.argv[1]), Path(Writer.beside(sys.argv[1])))
writer.begin()
writer.open(range(4), (1, 4, 2, 2))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_fails_leaves_nothing(stage1, tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device", "moments.npy")

    monkeypatch.setattr(Writer, "put", full)
    with pytest.raises(OSError, match="No space left"):
        trained(tmp_path, stage1)
    assert not list((tmp_path / "latents").iterdir())


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 1]])
def test_latents_of_any_memory_format_are_kept(rows, tmp_path):
    """Convolutions of a large batch leave channels last, and labels may be of another kind than the
    file's.
    """
    moments = torch.randn(3, 2, 8, 2, 5).permute(
        0, 1, 4, 2, 3
    )  # (3, 1 or 2, 2 z, h, w), channels last
    writer = Writer(tmp_path / "latents" / "a", tmp_path / "latents" / "a.partial")
    writer.begin()
    writer.open(range(3), moments.shape[1:])
    writer.put(rows, moments, torch.tensor(rows, dtype=torch.int32), torch.tensor(rows))
    writer.close()
    writer.end()
    found = open_cache(tmp_path / "latents" / "a").__getitems__(rows)
    assert torch.equal(found["moments"], moments.half()) and found["label"].tolist() == rows


def test_latents_beyond_16_bits_are_refused(tmp_path):
    writer = Writer(tmp_path / "latents" / "a", tmp_path / "latents" / "a.partial")
    writer.begin()
    writer.open(range(4), (1, 4, 2, 2))
    moments = torch.zeros(2, 1, 4, 2, 2)
    moments[:, :, 2:] = -float("inf")  # no spread, as of a codebook, is fine
    rows = [0, 3], moments, torch.tensor([1, 2]), torch.tensor([0, 3])
    writer.put(*rows)
    moments[1, 0, 1, 0, 0] = 1e6
    with pytest.raises(Refusal, match="pictures \\[0, 3\\] are not finite in 16 bits"):
        writer.put(*rows)
    writer.close()
    assert open_cache(tmp_path / "latents" / "a") is None
    writer.end()
    assert LatentCache(tmp_path / "latents" / "a").parts["label"][:].tolist() == [1, 0, 0, 2]


@pytest.mark.slow
def test_a_full_disk_is_known_before_the_work(stage1, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    try:
        more = overrides("latent", disk, f"space.autoencoder={stage1}", "data.flip=true")
        done = script("train.py", "--config", TINY / "latent.yaml", *more)
        assert (
            done.returncode == 2
            and done.stderr.count("\n") == 1
            and "latent cache: 0.0 GB" in done.stderr
        ), done.stderr
        assert "space.cache=false" in done.stderr and not list((disk / "latents").iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_worker_is_given_names_not_the_files(cached):
    """Pickled, as for a worker that is not forked: small, and the same when it is opened again;
    captions too.
    """
    found = open_cache(cached[2])
    texts = [f"the caption of picture {i}, long enough to be noticed" for i in range(1500)]
    found.columns = {"text": texts}
    again = pickle.loads(sent := pickle.dumps(found))
    assert len(sent) < 1000
    ours, theirs = (cache.__getitems__([3, 1499]) for cache in (found, again))
    assert ours["text"] == theirs["text"] and torch.equal(ours["moments"], theirs["moments"])
    found.read = False
    assert "moments" not in pickle.loads(pickle.dumps(found)).__getitems__([3])


def test_a_batchs_further_keys_pass_through_the_cache(stage1, tmp_path, monkeypatch):
    """A data set's own `angle`: in every batch of pictures, and of latents in their place."""
    pictures = Digits().load().train.images[:40]
    items = [{"image": u, "angle": float(i), "text": str(i)} for i, u in enumerate(pictures)]
    seen = []

    def step(module, batch, index):
        seen.append((batch["angle"].tolist(), batch["text"], "image" in batch))
        return kept(module, batch, index)

    kept = DiffusionModule.training_step
    monkeypatch.setattr(DiffusionModule, "training_step", step)
    run = run_config("latent", tmp_path, f"space.autoencoder={stage1}", "trainer.max_steps=2")
    train_run(replace(run, data=Given.like(run.data)), images=from_dataset(items))
    assert len(seen) == 2 and not any(images for *_, images in seen)
    for angles, texts, _ in seen:
        assert [f"{angle:.0f}" for angle in angles] == texts and len(set(texts)) > 8


@pytest.mark.slow
def test_a_spawned_worker_reads_the_cache(cached):
    found, batches = open_cache(cached[2]), [[0, 7], [1499, 3]]
    spawned = loader(found, batches, 1, pin=False)
    spawned.multiprocessing_context = "spawn"
    for rows, batch in zip(batches, spawned, strict=True):
        assert torch.equal(batch["moments"], found.__getitems__(rows)["moments"])


@pytest.mark.ddp
def test_two_processes_write_what_one_writes(pair, cached, stage1, tmp_path):
    more = overrides("latent", tmp_path, f"space.autoencoder={stage1}", FLIP, "trainer.devices=2")
    done = pair("train.py", "--config", TINY / "latent.yaml", *more)
    assert done.returncode == 0, done.stderr
    (folder,) = caches(tmp_path)
    assert folder.name == cached[2].name and len([*folder.glob("moments*.npy")]) == 2
    here, there = (open_cache(each).parts for each in (folder, cached[2]))
    for name, column in there.items():
        assert np.array_equal(here[name][:], column[:])
    assert folder.stat().st_size and not [*folder.glob("part*")]
