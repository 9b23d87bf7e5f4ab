"""FPND: the Frechet distance of ParticleNet's activations (Kansal et al. 2021, section 4).

Weights and the real jets' moments come inside the `jetnet` package. Its files are read, the package
is not imported (it wants numpy < 2, and the network): `pip install --no-deps jetnet` is enough.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ldm.errors import Refusal
from ldm.jets.distances import frechet, mean_and_cov
from ldm.system.progress import shown

# of the real eta, phi, pt: the weights' own scale
LARGEST = (
    1.6211985349655151,
    0.520724892616272,
    0.8934717178344727,
)
NEIGHBOURS = 16


class ParticleNet(nn.Module):
    """JetNet's ParticleNet (Qu & Gouskos 2020) for 30 constituents, its graphs written out densely.

    Three edge convolutions over the 16 nearest, in angles first and in all features later, each
    concatenated to its input; the mean over all 30; one linear layer. Padding is not masked:
    JetNet's network sees it as particles.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = 3, 64, 128, 256
        sums = np.cumsum(widths).tolist()
        self.edge_nets = nn.ModuleList(
            _EdgeNet(inputs, width) for inputs, width in zip(sums[:3], widths[1:], strict=True)
        )
        self.fc1 = nn.Sequential(nn.Linear(sums[-1], 256))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, P, 3) in the weights' scale -> activations (B, 256)."""
        for i, net in enumerate(self.edge_nets):
            near = _nearest(x[..., :2] if i == 0 else x)
            centre = x[:, :, None].expand(-1, -1, NEIGHBOURS, -1)
            other = torch.gather(
                x[:, None].expand(-1, x.shape[1], -1, -1),
                2,
                near[..., None].expand(*near.shape, x.shape[-1]),
            )
            x = torch.cat([net(torch.cat([centre, other - centre], -1)).mean(2), x], -1)
        return self.fc1(x.mean(1))


class _EdgeNet(nn.Module):
    """Three layers of linear, batch norm and ReLU, named as in JetNet's state dict."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for size in (2 * inputs, width, width):
            layers += [nn.Linear(size, width), nn.BatchNorm1d(width), nn.ReLU()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def _nearest(x: Tensor) -> Tensor:
    """Indices (B, P, k) of the k nearest others of each point (B, P, F)."""
    distance = (
        (x[:, :, None] - x[:, None]).square().sum(-1) if x.shape[-1] < 8 else torch.cdist(x, x)
    )
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return distance.masked_fill(itself, torch.inf).topk(NEIGHBOURS, largest=False).indices


def resources(folder: str | Path | None = None) -> Path:
    """The folder with `pnet_state_dict.pt` and the moments: the given one, or the package's."""
    spec = None if folder else find_spec("jetnet")  # finds the package without importing it
    path = (
        Path(folder)
        if folder
        else Path(spec.origin).parent / "evaluation"
        if spec and spec.origin
        else None
    )
    if path is not None and not folder:
        path = path / "fpnd_resources/jetnet/30_particles"
    if path is None or not (path / "pnet_state_dict.pt").is_file():
        raise Refusal(
            "FPND needs ParticleNet's weights out of the jetnet package: pip install --no-deps "
            "jetnet"
        )
    return path


def load_particlenet(folder: Path) -> ParticleNet:
    """The network with JetNet's weights; its classifier's last layer is not needed."""
    state = torch.load(folder / "pnet_state_dict.pt", map_location="cpu", weights_only=True)
    net = ParticleNet()
    # the convolutions hold the same edge networks a second time
    net.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(("edge_convs", "fc2"))}
    )
    return net.eval()


@torch.no_grad()
def activations(
    net: ParticleNet, features: Tensor, mask: Tensor, batch: int = 256, quiet: bool = True
) -> np.ndarray:
    """(N, 256) of jets (N, 30, 3), divided by the real maxima, pt shifted by -0.5, as in JetNet."""
    x = features.float() * mask[..., None] / features.new_tensor(LARGEST) - features.new_tensor(
        [0, 0, 0.5]
    )
    return torch.cat([net(part) for part in shown(x.split(batch), "FPND", quiet)]).double().numpy()


def reference_folder(kind: str, constituents: int, folder: str | Path | None = None) -> Path:
    """The folder with JetNet's reference of one type.

    Refusal, before anything is sampled, where there is none.
    """
    path = resources(folder)
    if constituents != 30 or not (path / f"{kind}_mu.txt").is_file():
        raise Refusal(
            f"FPND is defined for 30 constituents and types g, q, t; got {constituents} and "
            f"'{kind}'"
        )
    return path


def fpnd(
    features: Tensor,
    mask: Tensor,
    kind: str = "g",
    folder: str | Path | None = None,
    largest: int = 50_000,
    quiet: bool = True,
) -> float:
    """FPND of at most `largest` jets with 30 places against JetNet's own of a type: g, q or t.

    The reference is the real JetNet data, so other data (another generator, R or cut) has a
    distance of its own.
    """
    path = reference_folder(kind, features.shape[1], folder)
    moments = (np.loadtxt(path / f"{kind}_{name}.txt") for name in ("mu", "sigma"))
    return frechet(
        *mean_and_cov(
            activations(load_particlenet(path), features[:largest], mask[:largest], quiet=quiet)
        ),
        *moments,
    )
