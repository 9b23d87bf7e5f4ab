"""A key by its name elsewhere: ours is named."""

from dataclasses import fields

import pytest
from helpers import TINY

from ldm import config
from ldm.config import DiffusionConfig
from ldm.config.synonyms import MEANT
from ldm.errors import Refusal
from ldm.pictures.folders import ImageFolder


@pytest.mark.parametrize(
    "given, meant",
    [
        ("optim.learning_rate=1", "optim.lr"),
        ("trainer.epochs=3", "trainer.max_steps"),
        ("steps=3", "trainer.max_steps"),
        ("trainer.gpus=2", "trainer.devices"),
        ("data.batch=2", "data.batch_size"),
    ],
)
def test_other_names_of_keys(given, meant):
    key = given.partition("=")[0]
    with pytest.raises(Refusal, match=f"no key '{key}'; did you mean '{meant}'\\?"):
        config.load(TINY / "pixel.yaml", [given])


def test_every_name_meant_is_a_key():
    whole = config.load(TINY / "pixel.yaml")
    for meant in MEANT.values():
        node = whole
        for part in meant.split("."):
            known = {f.name for f in fields(ImageFolder if node is whole.data else node)}
            assert part in known, meant
            node = getattr(node, part, None)
    assert isinstance(whole, DiffusionConfig)


def test_a_folder_that_is_not_given_and_one_that_is_copied_from_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "data.root=DIR names the folder of pictures"
    with pytest.raises(Refusal) as error:
        ImageFolder().load()
    assert str(error.value) == (
        f"data.root is not given, and there is no folder 'data' here: {names}"
    )
    for root, hint in ("DIR", "; put your folder in the place of DIR"), ("other", ""):
        with pytest.raises(Refusal) as error:
            ImageFolder(root=root).load()
        assert str(error.value) == f"data.root: '{root}' is not a folder{hint}"
