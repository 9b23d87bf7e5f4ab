"""Normal marginals of a jet's constituents: laws, inverse, density, two ranks, odd data."""

import pytest
import torch
from helpers import ROOT, TINY, here, overrides
from torch import Tensor

from ldm.config import Guide
from ldm.errors import Refusal
from ldm.export.pack import pack
from ldm.jets import normal
from ldm.jets.data import JetNet
from ldm.jets.space import PointCloudSpace
from ldm.jets.statistics import raw_features
from ldm.sampling.generate import generate
from ldm.sampling.guides import load_guide
from ldm.sampling.model import restore

REAL = ROOT / "tests/fixtures/gluon30_400.hdf5"

SAME = lambda sums: sums


def made_jets(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Constituents even in a disc of radius 0.4, log-normal pt, of 3 ... 10 a jet."""
    random = torch.Generator().manual_seed(seed)
    far = 0.4 * torch.rand(n, 10, generator=random).sqrt()
    turn = 2 * torch.pi * torch.rand(n, 10, generator=random)
    pt = (torch.randn(n, 10, generator=random) - 4).exp().clamp(max=0.9)
    mask = torch.arange(10) < torch.randint(3, 11, (n, 1), generator=random)
    features = torch.stack([far * turn.cos(), far * turn.sin(), pt], -1)
    jet = torch.tensor([[1000.0, 0, 100, 10]]).expand(n, 4)
    return features.masked_fill(~mask[..., None], 0), mask, jet


def batch_of(features: Tensor, mask: Tensor, jet: Tensor) -> dict[str, Tensor]:
    none = torch.zeros(len(jet), dtype=torch.long)
    return {"particles": features, "mask": mask, "jet": jet, "label": none, "index": none}


def measured(*batches: dict[str, Tensor], reduce=SAME) -> PointCloudSpace:
    space = PointCloudSpace((10, 3), normal_marginals=True)
    space.measure(batches, reduce, "cpu")
    return space


def test_knots_are_the_quantiles_of_known_laws():
    """Even in a disc: G(r) = (r / 0.4)^2 = 1 - exp(-rho^2 / 2). Log-normal: logit of its quantile."""
    knots = measured(batch_of(*made_jets(60_000))).knots.view(2, -1)
    rho, z = normal.levels()
    far = 0.4 * (1 - torch.exp(-rho.square() / 2)).sqrt()
    assert (knots[0] - far).abs().max() < 2e-3
    middle = z.abs() < 3
    assert (knots[1] - torch.logit((z - 4).exp().clamp(1e-6, 0.9)))[middle].abs().max() < 0.05


def test_marginals_of_held_out_jets_are_standard_normal():
    space, (features, mask, _) = measured(batch_of(*made_jets(30_000))), made_jets(30_000, seed=1)
    x = space.encode(features, mask=mask)
    real = x[mask].double().sort(0).values
    even = (torch.arange(len(real)) + 0.5) / len(real)
    assert (torch.special.ndtr(real) - even[:, None]).abs().max() < 0.01
    assert (x[~mask] == 0).all()
    assert torch.equal(
        space.encode(features * torch.tensor([1, -1, 1]), mask=mask), x * torch.tensor([1, -1, 1])
    )


def test_what_is_encoded_comes_back_from_anywhere():
    """Also from beyond the training set, and from the axis."""
    space, (features, mask, _) = measured(batch_of(*made_jets(2000))), made_jets(500, seed=2)
    features[0, 0], features[1, 0] = torch.tensor([0.0, 0, 0.5]), torch.tensor([-3.0, 2, 0.999])
    features[2, 0] = torch.tensor([1e-9, -1e-9, 1e-5])
    x = space.encode(features, mask=mask)
    assert x.isfinite().all()
    assert x.abs().max() < 60  # not thrown out by the slope of the disc's edge
    assert torch.allclose(space.decode(x, mask), features, rtol=1e-4, atol=2e-6)


def test_no_sample_is_beyond_an_edge_by_more_than_the_last_knots():
    """x of a normal never decodes beyond the disc of 0.4 by more than the cells of its edge."""
    space = measured(batch_of(*made_jets(60_000)))
    x = torch.randn(20_000, 10, 3, generator=torch.Generator().manual_seed(3))
    there = torch.ones(20_000, 10, dtype=torch.bool)
    far = space.decode(x, there)[..., :2].norm(dim=-1)
    assert (far > 0.4005).float().mean() < 1e-4 and (far > 0.39).float().mean() == pytest.approx(
        1 - (0.39 / 0.4) ** 2, abs=3e-3
    )


def test_the_density_is_that_of_the_map():
    """log |det d x / d features| by autodiff, constituent by constituent."""
    space, (features, mask, _) = measured(batch_of(*made_jets(2000))), made_jets(4, seed=5)
    space, features = space.double(), features.double()
    one = lambda v: space._from_raw(raw_features(v))[0]
    for i in range(4):
        expected = sum(
            torch.linalg.slogdet(torch.autograd.functional.jacobian(one, features[i, j]))[1]
            for j in range(int(mask[i].sum()))
        )
        assert space.log_jacobian(features, mask)[i] == pytest.approx(float(expected), abs=1e-6)


def test_two_ranks_measure_what_one_does():
    whole, (features, mask, _) = measured(batch_of(*made_jets(400))), made_jets(400)
    other = normal.Marginals()
    other.add(features[200:], mask[200:])
    mine = normal.Marginals()
    mine.add(features[:200], mask[:200])
    assert torch.equal(mine.knots(lambda sums: sums + other.counts), whole.knots.view(2, -1))


@pytest.mark.parametrize("same", [0, 1, 2])
def test_a_constant_feature_stays_finite(same):
    features, mask, jet = made_jets(50)
    features[..., same] = 0.01
    space = measured(batch_of(features.masked_fill(~mask[..., None], 0), mask, jet))
    x = space.encode(features, mask=mask)
    assert (space.knots.view(2, -1).diff() > 0).all() and x.isfinite().all()
    back = space.decode(x, mask).masked_fill(~mask[..., None], 0)
    assert torch.allclose(back, features.masked_fill(~mask[..., None], 0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "place, value",
    [(5, 0.0), (0, -1.0), (0, float("nan")), (64, float("inf")), (65, -float("inf"))],
)
def test_knots_that_cannot_have_been_measured_are_refused(place, value):
    space = measured(batch_of(*made_jets(50)))
    space.expect_measured("FILE")
    space.knots[place] = value
    with pytest.raises(Refusal, match="FILE: its knots are not finite or do not increase"):
        space.expect_measured("FILE")


@pytest.mark.slow
def test_a_run_is_trained_packed_sampled_and_is_no_guide_of_a_scaled_one(jets_run, tmp_path):
    """What is packed decodes by the same knots: equal jets but for the weights' half precision."""
    short = "trainer.max_steps=2", "trainer.validate=2", "trainer.save=2", "sample.every=0"
    given = overrides("normal", tmp_path, "space.marginals=normal", "name=normal", *short)
    done = here("train.py", "--config", TINY / "jets.yaml", *given)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "normal"
    kept, packed = restore(run), restore(pack(run, tmp_path / "box"))
    train = JetNet(root=str(REAL), download=False).load().train
    every = batch_of(train.features, train.mask, train.jet)
    expected = PointCloudSpace((30, 3), normal_marginals=True)
    expected.measure([every], SAME, "cpu")
    assert torch.equal(kept.space.knots, expected.knots)
    assert torch.equal(packed.space.knots, kept.space.knots)
    samples = [generate(model, model.settings, range(5)) for model in (kept, packed)]
    assert torch.allclose(*samples, atol=2e-3) and samples[0].std() > 0.01
    with pytest.raises(Refusal, match=r"guide: x of .* is made of the data in another way"):
        load_guide(kept, Guide(run=str(jets_run)))
