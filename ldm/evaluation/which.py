"""Which evaluation is asked for, by the words alone: imports nothing that is slow."""

from collections.abc import Mapping
from typing import Any

from ldm.errors import Refusal


def asks_for_files(words: Mapping[str, Any]) -> bool:
    """Whether files are compared, or a checkpoint's samples; Refusal for neither and for both."""
    both = words["samples"] is not None, words["reference"] is not None
    if words["checkpoint"] is None and not all(both):
        missing = "--reference" if both[0] else "--samples" if both[1] else "--checkpoint"
        raise Refusal(
            f"{missing} is missing: give --checkpoint PATH, or --samples MINE --reference THEIRS"
        )
    if words["checkpoint"] is not None and (any(both) or words["size"] is not None):
        raise Refusal("--checkpoint: --samples, --reference and --size are without a checkpoint")
    return all(both)
