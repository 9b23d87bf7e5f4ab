"""Stage 1's reconstructions against the pictures they are of: PSNR, SSIM, LPIPS and rFID."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from ldm.errors import say
from ldm.evaluation.pictures import AgainstPictures, Judge
from ldm.metrics.distances import Moments, frechet_distance
from ldm.metrics.figures import STAGE1, metric_name
from ldm.metrics.images import psnr, ssim
from ldm.metrics.records import Figure, thousands
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.quick import compile_in_place, lay_channels_last
from ldm.sampling.model import load_autoencoder
from ldm.sampling.requests import Place
from ldm.system.batches import RowSet, as_bytes, as_images
from ldm.system.processes import ALONE, Ranks
from ldm.system.progress import Bar
from ldm.system.randomness import permutation

LPIPS_SIDE = 32  # AlexNet's pooling leaves nothing of smaller pictures


@dataclass(frozen=True)
class Reconstructions:
    """Pictures (rows of a data set) and how an autoencoder reconstructs them, by the mean."""

    autoencoder: Autoencoder
    dataset: RowSet
    rows: Sequence[int]
    batch_size: int = 64
    half: bool = False  # bf16 in convolutions and matrices

    @property
    def device(self) -> torch.device:
        """Where the autoencoder lies."""
        return next(self.autoencoder.parameters()).device

    def pair(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Pictures and what is made of them, (B, C, H, W) in [-1, 1]."""
        x = as_images(self.dataset.__getitems__(rows)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            x_hat = self.autoencoder.decode(self.autoencoder.encode(x).chunk(2, 1)[0])
        return x, x_hat.float().clamp(-1, 1)


@torch.inference_mode()
def evaluate_autoencoder(
    made: Reconstructions, judge: Judge, ranks: Ranks = ALONE, *, quiet: bool = False
) -> dict[str, Figure]:
    """PSNR, SSIM, LPIPS where its weights are, and rFID.

    Every rank decodes its share; rank 0 has the figures, and alone needs the reference.
    """
    mine, shape, first = ranks.share(made.rows), made.autoencoder.shape, ranks.rank == 0
    wanted = "lpips" in judge.metrics
    lpips = load_lpips(shape, str(made.device), aloud=first) if wanted else None
    parts = []
    with Bar("reconstructing", len(mine), "images", disable=quiet or not first) as bar:
        for i in range(0, len(mine), made.batch_size):
            x, x_hat = made.pair(mine[i : i + made.batch_size])
            likeness = _likeness(x, x_hat, lpips)
            parts.append(torch.cat([likeness, judge.features(as_bytes(x_hat))], 1))
            bar.update(len(x))
    table = ranks.collect(torch.cat(parts), len(made.rows))
    return _figures(table, 2 + (lpips is not None), judge) if first else {}


def _likeness(
    x: Tensor, x_hat: Tensor, lpips: LearnedPerceptualImagePatchSimilarity | None
) -> Tensor:
    """PSNR, SSIM and LPIPS of each, (B, 2 or 3), on the CPU."""
    found = [psnr(x, x_hat), ssim(x, x_hat, "none")]
    if lpips is not None:
        found.append(lpips.net(*(v.expand(-1, 3, -1, -1) for v in (x_hat, x))).flatten())
    return torch.stack(found, 1).cpu()


def _figures(table: Tensor, likenesses: int, judge: Judge) -> dict[str, Figure]:
    """Of rows of so many likenesses, then features."""
    count, fake = len(table), table[:, likenesses:]
    figures = {
        f"{key}_{thousands(count)}": Figure(table[:, i].mean().item(), count)
        for i, key in enumerate(("psnr", "ssim", "lpips")[:likenesses])
        if key in judge.metrics
    }
    if "fd" not in judge.metrics:
        return figures
    truth, rest = judge.truth.apart(count)
    floor = frechet_distance(Moments.of(truth), rest.moments)
    value = frechet_distance(Moments.of(fake), judge.truth.moments)
    return figures | {
        metric_name("fd", count, judge.features, "r"): Figure(value, count, floor, len(truth))
    }


def load_lpips(
    shape: tuple[int, ...], device: str, *, aloud: bool
) -> LearnedPerceptualImagePatchSimilarity | None:
    """torchmetrics' LPIPS with AlexNet, of pictures in [-1, 1]; or None, and why."""
    try:
        if min(shape[1:]) < LPIPS_SIDE:
            raise ValueError(f"AlexNet needs {LPIPS_SIDE} px, these pictures have {min(shape[1:])}")
        return LearnedPerceptualImagePatchSimilarity("alex").to(device)
    except (OSError, RuntimeError, ValueError) as error:
        if aloud:
            say(f"LPIPS is skipped: {str(error).splitlines()[0]}")
        return None


class AutoencoderEvaluation(AgainstPictures):
    """Reconstructions of stage 1."""

    choices = STAGE1
    usual_split = "test"

    def counted(self, there: int) -> int:
        return min(self.request.seeds.count or there, there)

    def restore(self, place: Place) -> None:
        found = load_autoencoder(self.opened.file, self.request.source.weights)
        self.autoencoder = found[0].to(place.own)
        if place.own != "cpu":
            lay_channels_last(self.autoencoder)
        if self.request.source.compile:
            compile_in_place(self.autoencoder)

    def make(self, place: Place) -> None:
        rows = permutation(len(self.dataset), "reference")[: self.count].tolist()
        size = self.request.settings.batch_size or 64
        half = self.request.source.precision == "bf16"
        made = Reconstructions(self.autoencoder, self.dataset, rows, size, half)
        self.half = half
        self.found = evaluate_autoencoder(made, self.judge(place), place.ranks)

    def record(self) -> dict[str, Any]:
        return {"precision": "bf16" if self.half else "32-true"} | super().record()
