"""Captions: a tiny CLIP with real files, a run in latents and one in pixels, prompts, and what is
refused.
"""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    COLOURS,
    TINY,
    captioned,
    grey,
    here,
    largest_difference,
    load,
    make_clip,
    overrides,
    run_config,
    script,
    task,
)
from PIL import Image

pytest.importorskip("transformers")

from ldm import config
from ldm.diffusion.tasks import cfg
from ldm.errors import Refusal, Stopped
from ldm.networks.text import CLIPText
from ldm.networks.unet import UNet
from ldm.sampling.conditions import Condition, without
from ldm.sampling.generate import generate
from ldm.sampling.model import restore
from ldm.sampling.prompts import prompts_from
from ldm.tasks.prior import Prior
from ldm.training.run import train_run


def test_a_trained_model_paints_what_the_caption_says(text_run):
    model = restore(text_run)
    made = (
        generate(model, model.settings, [0, 1, 2], Condition(prompts=list(COLOURS)))
        .float()
        .mean((2, 3))
    )
    assert made.argmax(1).tolist() == [0, 1, 2]
    same = generate(model, model.settings, [0, 1, 2], Condition(prompts=["red"] * 3))
    assert not torch.equal(
        same, generate(model, model.settings, [0, 1, 2], Condition(prompts=["blue"] * 3))
    )
    assert set(model.prompts) <= set(COLOURS) and model.prompts
    own = generate(model, model.settings, [0, 1])
    assert torch.equal(
        own,
        generate(
            model,
            model.settings,
            [0, 1],
            Condition(prompts=[model.prompts[i % len(model.prompts)] for i in (0, 1)]),
        ),
    )


def states(encoder, captions):
    return encoder.condition(captions, "cpu")


def test_padding_has_no_effect_and_batches_do_not_matter(clip):
    short, long = (CLIPText(str(clip), length).load() for length in (6, 30))
    net, x = (
        UNet(channels=(8, 16), layers=1, attention=(4,)).build((1, 8, 8), text=16).eval(),
        torch.randn(2, 1, 8, 8),
    )
    captions, t = ["red", "blue"], torch.tensor([10.0, 500.0])
    outs = [net(x, t, **states(encoder, captions)) for encoder in (short, long)]
    assert torch.allclose(*outs, atol=1e-5) and not torch.allclose(
        outs[0], net(x, t, **states(short, captions[::-1])), atol=1e-4
    )
    garbage = states(long, captions)
    garbage["text"] = torch.where(garbage["text_mask"][..., None], garbage["text"], 1e3)
    assert torch.allclose(net(x, t, **garbage), outs[1], atol=1e-5)
    alone = CLIPText(str(clip), 30).load()
    assert torch.equal(
        states(alone, ["blue"])["text"][0], states(long, ["red and blue", "blue"])["text"][1]
    )


def test_untold_rows_are_the_null_condition_one_by_one(clip):
    encoder = CLIPText(str(clip), 12).load()
    net, x = (
        UNet(channels=(8, 16), layers=1, attention=(4,)).build((1, 8, 8), 3, 16).eval(),
        torch.randn(2, 1, 8, 8),
    )
    t, cond = (
        torch.tensor([10.0, 500.0]),
        {"label": torch.tensor([0, 1])} | states(encoder, ["red", "blue"]),
    )
    some = net(x, t, **without(cond, torch.tensor([True, False]), 3))
    full, none = net(x, t, **cond), net(x, t, label=torch.tensor([3, 3]))
    assert torch.allclose(some[0], none[0], atol=1e-6) and torch.allclose(
        some[1], full[1], atol=1e-6
    )
    assert not torch.allclose(some[0], full[0], atol=1e-4) and not torch.allclose(
        none[1], full[1], atol=1e-4
    )
    empty = states(encoder, ["", " "])
    assert not empty["text"].any() and not empty["text_mask"].any()


def test_guidance_of_one_is_the_conditional_model(text_run):
    model = restore(text_run)
    x, t, cond = (
        torch.randn(3, 3, 8, 8),
        torch.tensor(0.6),
        model.text.condition(list(COLOURS), "cpu"),
    )
    null = without(cond, torch.ones(3, dtype=torch.bool), 0)
    plain = model.denoiser(x, t, **cond)
    assert torch.equal(cfg(model.denoiser, cond, null, 1.0)(x, t), plain)
    unconditional = model.denoiser(x, t)
    assert torch.allclose(
        cfg(model.denoiser, cond, null, 3.0)(x, t),
        unconditional + 3 * (plain - unconditional),
        atol=1e-4,
    )


def test_a_resumed_run_ends_with_the_same_bits(clip, captioned_pictures, tmp_path, monkeypatch):
    """Captions and classes both, the panels' prompts encoded in inference mode before training
    uses them.
    """
    from ldm.training import watching

    given = captioned(clip, captioned_pictures, "condition=both", data=", label: half")
    whole = load(train_run(run_config("pixel", tmp_path / "whole", *given)) / "last.ckpt")
    original = watching.Throughput.on_train_batch_end

    def terminate(self, trainer, module, *rest):
        original(self, trainer, module, *rest)
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", terminate)
    with pytest.raises(Stopped):
        train_run(run_config("pixel", tmp_path / "parts", *given))
    monkeypatch.setattr(watching.Throughput, "on_train_batch_end", original)
    parts = load(
        train_run(run_config("pixel", tmp_path / "parts", *given), resume=True) / "last.ckpt"
    )
    assert largest_difference(parts["state_dict"], whole["state_dict"]) == 0
    assert not any(
        "text" in key or "token" in key for key in whole["state_dict"]
    )  # the encoder stays out
    assert whole["ldm"]["classes"] == ["a", "b"]


def test_each_caption_is_encoded_once(clip):
    encoder = CLIPText(str(clip), 12).load()
    for _ in range(3):
        states(encoder, ["red", "blue", " red "])
    assert encoder.encoded == 2


def test_the_latent_cache_keeps_captions_with_their_pictures(tmp_path):
    from ldm.pictures.latent_writer import Writer
    from ldm.pictures.latents import open_cache

    writer = Writer(tmp_path / "cache", tmp_path / "partial")
    writer.begin()
    writer.open(range(3), (1, 2, 1, 1))
    writer.put(
        [0, 1, 2], torch.zeros(3, 1, 2, 1, 1), torch.zeros(3), torch.tensor([0, 2, 2])
    )  # 1 could not be read
    writer.close()
    writer.end()
    cache = open_cache(tmp_path / "cache")
    assert "text" not in cache.__getitems__([0, 1])
    cache.columns = {"text": ["a", "b", "c"]}
    assert cache.__getitems__([2, 1, 0])["text"] == ["c", "c", "a"]


def test_an_over_long_prompt_says_what_is_cut(text_run, capsys):
    model = restore(text_run)
    assert (
        prompts_from(model, "red", None, range(2)) == ["red", "red"] and not capsys.readouterr().out
    )
    prompts_from(model, "abcdefghijklmn", None, range(1))  # ten letters and the two ends
    assert "longer than 12 tokens; cut: 'klmn'" in capsys.readouterr().out
    # the letters that were cut have no effect
    assert torch.equal(model.text.states("abcdefghijkl"), model.text.states("abcdefghijklmn"))


@pytest.mark.slow
def test_train_and_sample_by_the_scripts(clip, captioned_pictures, tmp_path):
    folder = tmp_path / "samples"
    given = [*overrides("pixel", tmp_path), *captioned(clip, captioned_pictures)]
    done = script("train.py", "--config", TINY / "pixel.yaml", *given)
    assert done.returncode == 0, done.stderr
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\n\nblue\n")
    run = tmp_path / "tiny-pixel"
    done = here(
        "sample.py", "--checkpoint", run, "--output", folder, "--count", 3, "--prompt-file", prompts
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["red", "blue", "red"]
    done = here("sample.py", "--checkpoint", run, "--output", tmp_path / "x", "--prompt", " ")
    assert done.returncode == 2 and "is empty" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_is_refused(text_run, pixel_run, clip, captioned_pictures, tmp_path, monkeypatch):
    model, plain = restore(text_run), restore(pixel_run)
    for flags, refused in [
        ((plain, "red", None), "a model without text"),
        ((model, "red", "FILE"), "give one of them"),
        ((model, None, str(tmp_path / "none.txt")), "cannot be read"),
        ((model, "", None), "is empty"),
    ]:
        with pytest.raises(Refusal, match=refused):
            prompts_from(*flags, range(2))
    with pytest.raises(Refusal, match="the data has no captions"):
        train_run(
            run_config(
                "pixel", tmp_path, "condition=text", f"text={{name: CLIPText, model: {clip}}}"
            )
        )
    with pytest.raises(Refusal, match="cannot be had"):
        CLIPText(str(captioned_pictures)).load()
    with pytest.raises(Refusal, match=r"3 \.\.\. 77"):
        run_config("pixel", tmp_path, "text={name: CLIPText, length: 100}")
    with pytest.raises(
        Refusal, match="network SetTransformer does not support captions; UNet does"
    ):
        config.load(TINY / "jets.yaml", ["condition=text"])
    state = load(text_run / "last.ckpt")
    state["ldm"]["config"]["text"]["model"] = str(make_clip(tmp_path / "other", seed=1))
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(Refusal, match="it was trained with"):
        restore(tmp_path / "other.ckpt")
    monkeypatch.setattr("ldm.networks.text.find_spec", lambda name: None)
    with pytest.raises(Refusal, match="pip install"):
        replace(CLIPText(), model=str(clip)).load()


TASKS = {
    "inpaint": dict(mask="mask.png", method="project"),
    "super-resolve": dict(degrade=True, factor=4, method="project"),
    "denoise": dict(noise_std=2.0),
    "edit": dict(strength=0.9),
}


def ask(checkpoint, folder, name, **given):
    """A task on a grey picture; what it makes of it, as arrays."""
    image, mask = folder.parent / "grey.png", folder.parent / "mask.png"
    Image.new("RGB", (8, 8), (85, 85, 85)).save(image)
    hole = Image.new("L", (8, 8), 255)
    hole.putpixel((0, 0), 0)
    hole.save(mask)
    given |= {"mask": str(mask)} if "mask" in given else {}
    task(checkpoint, folder, name, **dict(image=[str(image)]) | given)
    return [grey(folder / f"grey-{seed:08d}.png") for seed in range(given.get("count", 2))]


@pytest.mark.parametrize("name", TASKS)
def test_tasks_hear_the_prompt(text_run, tmp_path, name):
    """Each seed its own line of the file, and guided more so than not."""
    lines = tmp_path / "lines.txt"
    lines.write_text("red\nblue\n")
    more = TASKS[name] | dict(steps=8, count=4, prompt_file=str(lines))
    made = {w: ask(text_run, tmp_path / f"{w}", name, guidance=w, **more) for w in (1.0, 3.0)}
    rows = [
        json.loads(line) for line in (tmp_path / "3.0" / "samples.jsonl").read_text().splitlines()
    ]
    assert [row["prompt"] for row in rows] == ["red", "blue", "red", "blue"]
    only = ask(
        text_run,
        tmp_path / "only",
        name,
        guidance=3.0,
        **more | dict(prompt_file=None, prompt="red"),
    )
    same = [np.abs(a - b).max() <= 1 for a, b in zip(only, made[3.0], strict=True)]
    assert same == [True, False, True, False]
    if name != "super-resolve":  # there the means of the picture are given
        redness = {
            w: [(picture[..., 0] - picture[..., 2]).mean() for picture in of]
            for w, of in made.items()
        }
        assert all((red > 0) == (i % 2 == 0) for i, red in enumerate(redness[3.0]))
        assert np.abs(redness[3.0]).sum() > np.abs(redness[1.0]).sum()


def test_a_task_without_a_prompt_is_untold_and_a_model_without_text_refuses_one(
    text_run, pixel_run, tmp_path
):
    model, x, t = restore(text_run), torch.randn(2, 3, 8, 8), torch.tensor(0.6)
    assert torch.equal(Prior(model, model.settings, [0, 1]).denoise()(x, t), model.denoiser(x, t))
    # interpolation has one seed and several rows
    one, each = (
        Prior(model, model.settings, seeds, Condition(prompts=["red"] * len(seeds)))
        for seeds in ([0], [0, 1])
    )
    assert torch.equal(one.rows([0, 0]).denoise()(x, t), each.denoise()(x, t)) and not torch.equal(
        each.denoise()(x, t), model.denoiser(x, t)
    )
    with pytest.raises(Refusal, match="takes one prompt"):
        ask(text_run, tmp_path / "a", "interpolate", prompt_file="lines.txt")
    with pytest.raises(Refusal, match="a model without text"):
        ask(pixel_run, tmp_path / "b", "edit", prompt="red")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_interpolation_uses_a_prompt(text_run, tmp_path):
    picture = tmp_path / "grey.png"
    Image.new("RGB", (8, 8), (85, 85, 85)).save(picture)
    for prompt in (None, "red"):
        task(
            text_run, tmp_path / f"{prompt}", "interpolate", image=[str(picture)] * 2, prompt=prompt
        )
    none, red = (
        json.loads((tmp_path / name / "samples.jsonl").read_text().splitlines()[0])
        for name in ("None", "red")
    )
    assert red["prompt"] == "red" and "prompt" not in none
