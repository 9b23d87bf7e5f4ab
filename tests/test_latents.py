"""The latent cache: what it holds, that training on it is training, and that a stale or damaged one is not met."""

import subprocess

import numpy as np
import pytest
import torch
from helpers import TINY, largest_difference, load, overrides, run_config, script

from ldm.data.batches import as_images
from ldm.data.images import Digits
from ldm.data.latents import LatentCache, cache_folder, open_cache
from ldm.model import load_autoencoder, restore
from ldm.randomness import generator
from ldm.training import latents
from ldm.training.run import train

FLIP = "data.flip=true"


def trained(output, stage1, *more, stage="latent"):
    folder = train(run_config(stage, output, f"space.autoencoder={stage1}", *more))
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
    assert batch["moments"].shape[:2] == (3, 2) and torch.equal(batch["label"], pictures.labels[rows])
    with torch.no_grad():
        for i, x in enumerate((image, image.flip(-1))):
            torch.testing.assert_close(batch["moments"][:, i].float(), autoencoder.encode(x), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(batch["moments"][:, 0], batch["moments"][:, 1], atol=0.01)


def test_training_on_it_is_training_on_the_pictures(cached, stage1, tmp_path):
    """The same rows, mirrored alike, with the same noise: the weights differ by the rounding to 16 bits alone."""
    plain = trained(tmp_path, stage1, FLIP, "space.cache=false")
    assert not (tmp_path / "latents").exists()
    unmirrored = trained(tmp_path, stage1, "name=unmirrored", "space.cache=false")
    # the mean: Adam's first steps are a sign, which rounding turns where a gradient is next to none
    near, far = (mean_difference(state["state_dict"], plain["state_dict"]) for state in (cached[1], unmirrored))
    assert near < 2e-5 and near < 0.05 * far, (near, far)


def test_a_second_run_finds_it(cached, stage1, capsys):
    output, state, folder = cached
    before = (folder / "moments.npy").stat().st_mtime_ns
    again = trained(output, stage1, FLIP, "name=again")
    assert caches(output) == [folder] and (folder / "moments.npy").stat().st_mtime_ns == before
    assert largest_difference(again["state_dict"], state["state_dict"]) == 0
    whole = (folder / "moments.npy").read_bytes()
    np.load(folder / "moments.npy", mmap_mode="r+")[:, :, 0] = 3  # it is what training reads, not the pictures
    other = trained(output, stage1, FLIP, "name=other")
    assert mean_difference(other["state_dict"], state["state_dict"]) > 1e-4
    (folder / "moments.npy").write_bytes(whole)
    trained(output, stage1, "name=unmirrored")
    assert len(caches(output)) == 2  # without mirror images it is another


def test_of_the_device_it_is_the_same(cached, stage1, monkeypatch):
    monkeypatch.setattr(latents, "fits", lambda cache, device: True)
    output, state, _ = cached
    assert largest_difference(trained(output, stage1, FLIP, "name=table")["state_dict"], state["state_dict"]) == 0


def test_whitened_latents_have_mean_0_and_std_1(cached):
    model, found = restore(cached[0] / "tiny-latent"), open_cache(cached[2])
    space = model.space
    draw = lambda shape: torch.randn(shape, generator=generator("test"))
    data = space.read(found.__getitems__(list(range(1500))))
    x_0 = space.encode(data, draw)
    assert x_0.mean((0, 2, 3)).abs().max() < 0.02 and (x_0.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_other_autoencoders_data_and_orientations_are_other_caches(cached, tmp_path):
    data = Digits().load().train
    keys = {cache_folder(tmp_path, a, d, o) for a in "ab" for d in (data.fingerprint(), "other") for o in (1, 2)}
    assert len(keys) == 8
    data.images[3, 0, 2, 2] += 1
    changed = data.fingerprint()
    data.images[3, 0, 2, 2] -= 1
    data.labels[5] += 1
    assert len({Digits().load().train.fingerprint(), changed, data.fingerprint()}) == 3  # labels are kept too


def test_damaged_or_half_written_it_is_made_again(cached, stage1, capsys):
    output, state, folder = cached
    whole = (folder / "moments.npy").read_bytes()
    (folder / "moments.npy").write_bytes(whole[:-100])
    (folder.parent / f"{folder.name}.123.partial").mkdir()
    assert open_cache(folder) is None and "damaged" in capsys.readouterr().out
    again = trained(output, stage1, FLIP, "name=mended")
    assert (folder / "moments.npy").read_bytes() == whole
    assert largest_difference(again["state_dict"], state["state_dict"]) == 0
    (folder / "about.json").unlink()  # the mark of a whole one
    assert open_cache(folder) is None
    (folder.parent / f"{folder.name}.123.partial").rmdir()


def test_latents_beyond_16_bits_are_refused(tmp_path):
    from ldm.data.latents import Writer
    from ldm.errors import Refusal

    writer = Writer(tmp_path / "latents" / "a", tmp_path / "latents" / "a.partial")
    writer.begin(4, (1, 4, 2, 2))
    writer.open()
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
    assert np.array_equal(LatentCache(tmp_path / "latents" / "a").parts["label"], [1, 0, 0, 2])


@pytest.mark.slow
def test_a_full_disk_is_known_before_the_work(stage1, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        more = overrides("latent", disk, f"space.autoencoder={stage1}", "data.flip=true")
        done = script("train.py", "--config", TINY / "latent.yaml", *more)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "latent cache: 0.0 GB" in done.stderr, done.stderr
        assert "space.cache=false" in done.stderr and not list((disk / "latents").iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.ddp
def test_two_processes_write_what_one_writes(cached, stage1, tmp_path):
    more = overrides("latent", tmp_path, f"space.autoencoder={stage1}", FLIP, "trainer.devices=2")
    done = script("train.py", "--config", TINY / "latent.yaml", *more)
    assert done.returncode == 0, done.stderr
    (folder,) = caches(tmp_path)
    assert folder.name == cached[2].name
    for name in ("moments", "label", "index"):
        assert (folder / f"{name}.npy").read_bytes() == (cached[2] / f"{name}.npy").read_bytes()
