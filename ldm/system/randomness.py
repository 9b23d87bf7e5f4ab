"""Every random number of the project: generators keyed by what they are for.

The same key gives the same numbers on every machine, after a resume, and for any number of
processes.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """A hash of the key: (seed, "noise", step, slot), say."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a hash of the key."""
    return torch.Generator(device).manual_seed(seed_of(*key))


def permutation(n: int, *key: int | str) -> Tensor:
    """A permutation of 0 ... n - 1, a function of its key."""
    return torch.randperm(n, generator=generator(*key))


def stratified(count: int, slot: int, slots: int, *key: int | str) -> Tensor:
    """`count` numbers in [0, 1), over all slots of a step one stratified set of count * slots.

    u_j = (j / N + u) mod 1 with one shared u for each key (Kingma et al. 2021, appendix I.1).
    """
    offset = torch.rand((), generator=generator(*key), dtype=torch.float64)
    j = torch.arange(count, dtype=torch.float64) * slots + slot
    return ((j / (count * slots) + offset) % 1).float()


class SampleNoise:
    """Standard normal noise for a batch of samples, row i from a generator keyed by seeds[i] alone.

    Drawn on the CPU, so that a sample is the same on every device, in every batch and on any number
    of processes.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        mask: Tensor | None = None,
    ):
        self.generators = [generator("sample", int(seed)) for seed in seeds]
        self.shape, self.device, self.mask = tuple(shape), device, mask

    def __call__(self) -> Tensor:
        """The next draw: (B, *shape), float32.

        With a mask (B, N) of clouds 0 at padding, which so stays 0 in any solver.
        """
        noise = torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])
        if self.mask is not None:
            noise = noise.masked_fill(~self.mask[..., None].cpu(), 0)
        if torch.device(self.device).type == "cuda":
            noise = noise.pin_memory()  # of other memory the copy would be waited for
        return noise.to(self.device, non_blocking=True)
