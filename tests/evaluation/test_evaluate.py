"""From a checkpoint to records: evaluate.py as a user runs it, and the same code called by ours."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, column_of, here, load, run_config, script
from PIL import Image

from ldm.errors import Refusal
from ldm.evaluation.pictures import Judge, evaluate, load_data, sample_features
from ldm.evaluation.requests import EvaluationRequest
from ldm.evaluation.run import evaluate_checkpoint
from ldm.metrics.features import choose
from ldm.metrics.figures import check_count, compare
from ldm.metrics.records import figure_table, thousands
from ldm.metrics.reference import cached_reference
from ldm.pictures.folders import ImageFolder
from ldm.pictures.images import Digits
from ldm.sampling.model import restore
from ldm.training.run import train_run


@pytest.fixture(scope="module")
def digits():
    return choose("digits")


@pytest.fixture(scope="module")
def real(digits, tmp_path_factory):
    return cached_reference(
        Digits().load().train, digits, "Digits train", tmp_path_factory.mktemp("cache"), quiet=True
    )


def arguments(path, tmp_path, **change):
    """run()'s, as evaluate.py gives them."""
    plain = dict(
        checkpoint=str(path),
        count=None,
        features="auto",
        split=None,
        seed=0,
        weights="ema",
        device="cpu",
        data_root=None,
    )
    plain |= dict(
        output=str(tmp_path / "out"),
        cache=str(tmp_path / "cache"),
        eta=None,
        solver=None,
        steps=None,
        guidance=None,
    )
    return plain | {"batch_size": None} | change


def measured(*given, **change):
    """evaluate.py in this process."""
    evaluate_checkpoint(EvaluationRequest.parse(arguments(*given, **change)))


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


# -- what figures mean -----------------------------------------------------------------------------
def test_real_pictures_are_at_the_floor_and_noise_is_far(digits, real):
    test = Digits().load().test
    good = compare(digits(test.images), real, digits, test.labels)
    noise = torch.randint(
        0, 256, (297, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    bad = compare(digits(noise), real, digits, test.labels)
    for name, figure in good.items():
        assert figure.n == 297 and figure.floor is not None, name
    assert (
        good["fd_digits_297"].value
        < 2.5 * good["fd_digits_297"].floor
        < 0.1 * bad["fd_digits_297"].value
    )
    assert abs(good["kd_digits_297"].value) < 0.02 * bad["kd_digits_297"].value
    for name in ("precision_297", "recall_297", "coverage_297"):
        assert abs(good[name].value - good[name].floor) < 0.15, name
    # an outlier's wide ball takes half of the noise for precise: what density was made to see
    # (Naeem et al. 2020)
    assert (
        bad["coverage_297"].value < 0.1
        and bad["density_297"].value < 0.6 * good["density_297"].value
    )
    assert good["class_share_297"].value == pytest.approx(good["class_share_297"].floor, abs=1e-4)
    assert bad["class_share_297"].value < 0.3


def test_only_ten_pictures_over_and_over_are_found_out(digits, real):
    """Perfect pictures without variety: precise, but they cover little."""
    few = digits(Digits().load().train.images[:10].repeat(20, 1, 1, 1))
    figures = compare(few, real, digits)
    assert (
        figures["precision_200"].value > 0.8 * figures["precision_200"].floor
        and figures["recall_200"].value < 0.1
    )
    assert figures["coverage_200"].value < 0.6 * figures["coverage_200"].floor
    assert "class_share_200" not in figures


def test_seeds_may_be_shared_in_any_way(digits, latent_run):
    """The features of sample i are a function of its seed: what ranks need to share the work."""
    model, seeds = restore(latent_run), list(range(11))
    whole = sample_features(model, model.settings, seeds, digits, quiet=True)
    shares = [
        sample_features(model, model.settings, seeds[rank::2], digits, quiet=True)
        for rank in (0, 1)
    ]
    joined = torch.empty_like(whole)
    joined[0::2], joined[1::2] = shares
    torch.testing.assert_close(joined, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[0], whole[10])  # the same class, another seed


def test_figures_are_a_function_of_the_seeds(digits, real, pixel_run):
    model = restore(pixel_run)
    first, again, other = (
        evaluate(model, model.settings, range(s, s + 40), Judge(digits, real), quiet=True)
        for s in (0, 0, 40)
    )
    assert first == again and first["fd_digits_40"].value != other["fd_digits_40"].value
    assert first["fd_digits_40"].value > 3 * first["fd_digits_40"].floor  # 8 steps of training


def test_names_carry_n_and_only_inceptions_is_fid(digits, real):
    assert [thousands(n) for n in (5000, 1500, 50_000, 297)] == ["5k", "1500", "50k", "297"]
    features = choose("digits")
    names = [*compare(real.rows[:100], real, features)]
    assert names[:2] == ["fd_digits_100", "kd_digits_100"]
    features.name = "inception"
    assert [*compare(real.rows[:100], real, features)][:2] == ["fid_100", "kid_100"]


# -- evaluate.py -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_evaluate_as_a_user_does(pixel_run, tmp_path):
    """A subprocess and then the same here: the table, the records whole, the same figures from the
    cached reference.
    """
    command = (
        "--checkpoint",
        pixel_run,
        "--count",
        60,
        "--output",
        tmp_path / "out",
        "--seed",
        5,
        "--steps",
        3,
    )
    done = script("evaluate.py", *command, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for word in (
        "truth-vs-truth",
        "fd_digits_60",
        "class_share_60",
        "wrote 7 records",
        "60 samples in 128 dimensions",
    ):
        assert word in done.stdout, word
    assert done.stderr == ""  # and no bar, which test_progress.py sees in a terminal
    first = lines(tmp_path / "out")
    keys = {
        "metric",
        "value",
        "n",
        "truth_vs_truth",
        "features",
        "reference",
        "checkpoint",
        "weights",
        "device",
        "seeds",
    }
    keys |= {"solver", "steps", "guidance", "batch_size", "labels", "versions", "date"}
    assert len(first) == 7 and all(keys <= line.keys() for line in first)
    fd = first[0]
    assert (
        fd["metric"] == "fd_digits_60"
        and fd["truth_vs_truth"]["n"] == 60
        and fd["truth_vs_truth"]["value"] > 0
    )
    assert fd["features"]["hash"] == choose("digits").hash and fd["reference"]["n"] == 1500
    assert (
        fd["seeds"] == {"first": 5, "count": 60}
        and fd["steps"] == 3
        and fd["solver"]["name"] == "DDIM"
    )
    assert (
        fd["checkpoint"]["step"] == 8
        and fd["checkpoint"]["path"] == str(pixel_run / "last.ckpt")
        and fd["guidance"] == 1.5
    )
    assert {"torch", "diffusers", "torch-fidelity", "python"} <= fd["versions"].keys()
    measured(pixel_run, tmp_path, count=60, seed=5, steps=3, cache=str(tmp_path / "ldm"))
    both = lines(tmp_path / "out")
    assert (
        both[:7] == first and len(list((tmp_path / "ldm").iterdir())) == 1
    )  # appended; no second reference
    for ours, theirs in zip(both[7:], first, strict=True):
        assert (
            ours["value"] == pytest.approx(theirs["value"], rel=1e-5)
            and ours["reference"] == theirs["reference"]
        )
    again = dict(count=60, seed=5, steps=3, weights="raw", cache=str(tmp_path / "ldm"))
    measured(pixel_run, tmp_path, **again)
    raw = lines(tmp_path / "out")[14]
    assert (
        raw["weights"] == "raw"
        and raw["value"] != fd["value"]
        and raw["checkpoint"] == fd["checkpoint"]
    )


def test_stage_1_agrees_with_its_validation(stage1, tmp_path, capsys):
    measured(stage1, tmp_path, batch_size=32)
    said, found = (
        capsys.readouterr().out,
        {line["metric"]: line for line in lines(tmp_path / "out")},
    )
    last = {
        name: [*column_of(stage1 / "metrics.csv", f"val/{name}").values()][-1]
        for name in ("psnr", "ssim")
    }
    assert found["psnr_297"]["value"] == pytest.approx(float(last["psnr"]), rel=1e-4)
    assert found["ssim_297"]["value"] == pytest.approx(float(last["ssim"]), rel=1e-3)
    rfd = found["rfd_digits_297"]
    assert (
        rfd["reference"] == rfd["reference"] | {"what": "Digits test", "n": 297}
        and rfd["value"] > 0
    )
    assert rfd["truth_vs_truth"]["n"] == 148 and "LPIPS is skipped" in said
    measured(stage1, tmp_path, weights="raw", count=100, split="train")
    raw = {line["metric"]: line for line in lines(tmp_path / "out")}["psnr_100"]
    assert raw["reference"]["what"] == "Digits train" and raw["value"] != found["psnr_297"]["value"]


def test_metrics_are_chosen_by_name(pixel_run, stage1, tmp_path, capsys):
    """Each has the value that it has among all; FID is our fd; a wrong name and one of the other
    stage name the nearest.
    """
    values = lambda name: {
        record["metric"]: record["value"] for record in lines(tmp_path / name / "out")
    }
    cache = str(tmp_path / "ldm")
    for name, more in (("all", {}), ("some", {"metrics": "fid,coverage"})):
        measured(pixel_run, tmp_path / name, count=30, steps=2, cache=cache, **more)
    every, some = values("all"), values("some")
    assert (
        some == {"fd_digits_30": every["fd_digits_30"], "coverage_30": every["coverage_30"]}
        and len(every) == 7
    )
    measured(stage1, tmp_path / "one", metrics="psnr", count=40, cache=cache)
    assert list(values("one")) == ["psnr_40"] and "LPIPS" not in capsys.readouterr().out
    table = [
        (pixel_run, "fd,recal", "'recal' is not one of .*did you mean 'recall'"),
        (stage1, "recall", "'recall' is not one of psnr"),
    ]
    for checkpoint, metrics, message in table:
        with pytest.raises(Refusal, match=message):
            measured(checkpoint, tmp_path / "none", metrics=metrics)
        assert not (tmp_path / "none").exists()


def test_table_has_a_row_for_each_figure(digits, real):
    figures = compare(real.rows[:50], real, digits)
    rows = figure_table(figures).splitlines()
    assert len(rows) == 1 + len(figures) and all(
        name in row for name, row in zip(figures, rows[1:], strict=True)
    )


@pytest.mark.slow
def test_figures_during_training_are_evaluates(digits, real, tmp_path, monkeypatch):
    """The last ones are those of the last checkpoint, to the digit; each is in metrics.csv and in
    the run's records.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = train_run(run_config("pixel", tmp_path, "evaluate.every=4", "evaluate.count=30"))
    made = lines(folder)
    first = [line for line in made if line["metric"] == "fd_digits_30"]
    assert [line["training"]["step"] for line in first] == [4, 8] and first[0]["value"] != first[1][
        "value"
    ]
    model = restore(folder)
    again = evaluate(model, model.settings, range(30), Judge(digits, real), quiet=True)
    assert again["fd_digits_30"].value == pytest.approx(first[1]["value"], rel=1e-6)
    column = column_of(folder / "metrics.csv", "evaluate/fd_digits_30")
    assert [float(v) for v in column.values()] == pytest.approx([line["value"] for line in first])
    floors = column_of(folder / "metrics.csv", "evaluate/fd_digits_30/truth_vs_truth")
    assert [float(v) for v in floors.values()] == pytest.approx(2 * [again["fd_digits_30"].floor])
    plain = train_run(run_config("pixel", tmp_path / "plain"))
    assert (
        load(plain / "last.ckpt")["state_dict"].keys()
        == load(folder / "last.ckpt")["state_dict"].keys()
    )
    for key, value in load(plain / "last.ckpt")["state_dict"].items():
        assert torch.equal(value, load(folder / "last.ckpt")["state_dict"][key]), (
            key
        )  # to look changes nothing


def test_stage_1_is_evaluated_in_training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_ = run_config("autoencoder", tmp_path, "evaluate.every=30", "evaluate.count=50")
    made = lines(train_run(run_))
    psnrs = [line["value"] for line in made if line["metric"] == "psnr_50"]
    assert (
        len(psnrs) == 2
        and psnrs[1] > psnrs[0]
        and {"rfd_digits_50", "ssim_50"} <= {line["metric"] for line in made}
    )


@pytest.mark.ddp
def test_two_processes_measure_what_one_does(pair, pixel_run, stage1, tmp_path):
    for checkpoint, count in ((pixel_run, 31), (stage1, 41)):
        for n in (1, 2):
            more = ("--devices", n, "--device", "cpu", "--output", tmp_path / str(n))
            done = (here if n == 1 else pair)(
                "evaluate.py",
                "--checkpoint",
                checkpoint,
                "--count",
                count,
                *more,
                XDG_CACHE_HOME=str(tmp_path),
            )
            assert done.returncode == 0, done.stderr
        one, two = lines(tmp_path / "1"), lines(tmp_path / "2")
        assert len(one) == len(two) and two[-1]["processes"] == 2
        for a, b in zip(one, two, strict=True):
            assert a["metric"] == b["metric"] and a["value"] == pytest.approx(
                b["value"], rel=1e-3, abs=1e-6
            )


# -- what is refused -------------------------------------------------------------------------------
def test_bad_input_to_evaluate(pixel_run, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    wrong, folder = tmp_path / "wrong.ckpt", tmp_path / "folder"
    state = load(pixel_run / "last.ckpt")
    state["ldm"]["config"]["data"] = {
        "name": "FashionMNIST",
        "root": str(folder),
        "download": False,
    }
    torch.save(state, wrong)
    folder.mkdir()
    for change, message in (
        (dict(checkpoint=str(tmp_path / "no.ckpt")), "neither a run's folder nor a file"),
        (dict(features="inceptoin"), "did you mean 'inception'"),
        (dict(split="val"), "'val' is not one of train, test"),
        (dict(count=0), "--count must be at least 1"),
        (dict(count=5), "count 5: too few, the metrics' neighbours need 6"),
        (dict(seed=-1), "--seed at least 0"),
        (dict(output=str(blocked)), "--output: .* cannot be written"),
        (dict(data_root=str(tmp_path)), "Digits are read from no folder"),
        (dict(checkpoint=str(wrong)), "data.root: no FashionMNIST in"),
        (
            dict(checkpoint=str(wrong), data_root=str(tmp_path / "nowhere")),
            "--data-root: .* is not a folder",
        ),
        (dict(solver="DIMM", count=20), "did you mean 'DDIM'"),
        (dict(device="cuda:99"), "--device"),
    ):
        with pytest.raises(Refusal, match=message) as error:
            measured(change.pop("checkpoint", pixel_run), tmp_path, **change)
        assert "\n" not in str(error.value)
    assert blocked.read_text() == "a file"


def test_data_of_another_checkpoint_are_refused(pixel_run, tmp_path):
    state = load(pixel_run / "last.ckpt")
    state["ldm"]["classes"] = ["a", "b"]
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(Refusal, match="the data's classes"):
        measured(tmp_path / "other.ckpt", tmp_path)


def test_too_few_real_pictures_are_named():
    with pytest.raises(Refusal, match="few: 8 pictures: too few"):
        check_count(100, 8, "few")


def test_refused_is_one_line_and_status_2(tmp_path):
    done = here("evaluate.py", "--checkpoint", tmp_path / "none")
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and done.stderr.startswith("error: checkpoint")
    )
    assert len((ROOT / "ldm/scripts/evaluate.py").read_text().splitlines()) < 100


def test_pictures_elsewhere_are_read_by_the_range_of_training(tmp_path):
    """Floats have no range of their own: that of the other folder would be another."""
    Image.fromarray(np.linspace(0, 10, 64, dtype=np.float32).reshape(8, 8)).save(
        tmp_path / "dark.tif"
    )
    state = {
        "shape": [1, 8, 8],
        "classes": [],
        "view": {"fit": "crop", "range": None, "found": [0.0, 100.0]},
    }
    images = load_data(ImageFolder(root="gone", size=8), str(tmp_path), state)
    assert images.train.__getitems__([0])["image"].max() == 26
