"""What the first of a run's processes does alone."""

from lightning.pytorch.utilities import rank_zero_only

from ldm import errors


def is_first() -> bool:
    """Whether this process is the first, before there is a Trainer to ask."""
    return getattr(rank_zero_only, "rank", 0) == 0


def announce(text: str) -> None:
    """A line for the person who watches, once and not once a rank."""
    if is_first():
        errors.say(text)
