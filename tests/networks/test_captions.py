"""Captions' states on the disk: what is read is what was written, and a damaged file is noticed."""

from itertools import chain

import pytest
import torch
from helpers import captioned, largest_difference, load, run_config

from ldm.networks import captions
from ldm.networks.captions import CaptionStore, blocks_of, key_of, write_block
from ldm.training.run import train_run

TEXTS = [f"caption {i}" for i in range(50)]


def states(texts, dim=4):
    """Of 1 to 7 tokens, different for each."""
    made = torch.Generator().manual_seed(0)
    return [torch.randn(1 + len(text) % 7, dim, generator=made) for text in texts]


def test_blocks_are_written_once_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "BLOCK", 16)
    store = CaptionStore(tmp_path / "x", 4)
    blocks = blocks_of([*TEXTS, "", "  caption   3 "], store)
    assert [len(block) for block in blocks] == [16, 16, 16, 2]
    assert sorted(chain.from_iterable(blocks)) == sorted(TEXTS)  # each once, however it is spaced
    assert blocks == blocks_of(reversed(TEXTS), store)  # in an order of their own
    made = {
        text: state for block in blocks for text, state in zip(block, states(block), strict=True)
    }
    for block in blocks:
        write_block(tmp_path / "x", block, [made[text] for text in block])
    assert store.get(TEXTS[0]) is None
    store.look()
    assert len(store) == 50 and not blocks_of(TEXTS, store)
    assert all(torch.equal(store.get(text), made[text]) for text in TEXTS)
    assert store.get("another") is None and key_of("another") not in store
    assert blocks_of([*TEXTS, "another"], store) == [["another"]]
    assert not list((tmp_path / "x").glob("*.partial"))


@pytest.mark.parametrize("how", ["cut", "noise", "other width", "offsets"])
def test_a_damaged_file_is_told_and_its_captions_are_missing(tmp_path, how, capsys):
    from safetensors.torch import load_file, save_file

    whole = write_block(tmp_path, TEXTS[:5], states(TEXTS[:5]))
    path = write_block(tmp_path, TEXTS[5:9], states(TEXTS[5:9]))
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif how == "noise":
        path.write_bytes(b"no such thing")
    else:
        parts = load_file(path)
        wrong = {"states": torch.zeros(9, 3)} if how == "other width" else {}
        wrong = wrong or {"offsets": parts["offsets"].flip(0)}
        save_file(parts | wrong, path)
    store = CaptionStore(tmp_path, 4)
    assert len(store) == 5 and store.get(TEXTS[5]) is None and store.get(TEXTS[0]) is not None
    said = capsys.readouterr().out
    assert f"{path} is damaged" in said and str(whole) not in said


def test_a_batch_encodes_as_one_caption_does(clip):
    from ldm.networks.text import CLIPText

    encoder = CLIPText(str(clip), 12).load()
    texts = ["red", "a long blue one", "green", "b"]
    alone = [encoder.encode([text], "cpu")[0] for text in texts]
    together = encoder.encode(texts, "cpu")
    for a, b in zip(alone, together, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(alone[0][0], alone[1][-1], atol=1e-2)


def test_a_run_reads_what_another_has_encoded(clip, captioned_pictures, tmp_path, monkeypatch):
    """The second encodes nothing, and has the bits of the first; without the folder it encodes."""
    from ldm.networks.text import TextEncoder

    seen, clean = [], TextEncoder.encode
    watched = lambda self, texts, device: seen.append(len(texts)) or clean(self, texts, device)
    monkeypatch.setattr(TextEncoder, "encode", watched)
    given = captioned(clip, captioned_pictures, "trainer.max_steps=4", "sample.every=0")
    first = load(train_run(run_config("pixel", tmp_path, *given)) / "last.ckpt")
    assert seen == [3]  # three captions in one batch, once
    second = load(train_run(run_config("pixel", tmp_path, *given, "name=b")) / "last.ckpt")
    assert seen == [3] and largest_difference(first["state_dict"], second["state_dict"]) == 0
    (folder,) = (tmp_path / "captions").iterdir()
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    train_run(run_config("pixel", tmp_path, *given, "name=c"))
    assert seen == [3, 3]
