"""This process' place, as its environment says it: before there is a Trainer to ask."""

import os

LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")  # torchrun's and Lightning's; srun's


def first_of_node() -> bool:
    """Whether this process is the first of its machine: what one of each does for all."""
    number = next((os.environ[name] for name in LOCAL if name in os.environ), "0")
    return number.strip() in ("", "0")
