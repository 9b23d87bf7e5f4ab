"""Between the host and a device that works behind it, so that neither waits for the other."""

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device | str) -> Tensor:
    """Values of the host on a device, without waiting for what it is doing.

    CUDA copies from pinned memory while it works, and from other memory once it has nothing to do.
    """
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Later:
    """Values of the device, on the host by the time that they are read.

    The copy is made when the device comes to it; `read` waits only where it has not yet.
    """

    def __init__(self, values: Tensor):
        self.values, self.copied = values.detach(), None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.values = host.copy_(self.values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> Tensor:
        """The values, on the host."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.values.cpu()
