"""Several processes of one run: when one of them is lost, the others end with one line."""

import torch.distributed as dist

from ldm.errors import PartnerLost


def lost_partner(error: BaseException, world: int) -> bool:
    """Whether an exchange between processes failed because one of them is gone."""
    broken = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
    return world > 1 and isinstance(error, RuntimeError) and broken


def partner_lost(step: int, world: int) -> PartnerLost:
    """What the others say."""
    return PartnerLost(
        f"one of the {world} processes of the run was lost at step {step}: killed, out of memory, or its machine; "
        "--resume goes on from the last checkpoint"
    )
