"""What lies on the disk of an offline W&B run: a folder for each leg, from a start to a stop.

`wandb sync` sends the legs of one run in their order, and stops at the first whose file has no end.
A leg that was killed has none, so that no later one would ever be sent: its file is ended here,
after its last whole record.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

HEADER, BLOCK = 7, 32768  # of the file and of each chunk; LevelDB's log format
WHOLE, LAST = 1, 4  # kinds of chunk that end a record


def sync_line(folder: Path) -> str:
    """The command that sends every leg that has not been sent."""
    return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"


def end_legs(folder: Path) -> None:
    """End the file of each earlier leg, with the folder locked.

    One that was killed before it began is set aside.
    """
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        with suppress(OSError):
            _end(path)


def _end(path: Path) -> None:
    raw = path.read_bytes()
    records = [*_records(raw)]
    if not any(_is_run(record) for _, record in records):
        path.rename(path.with_name(f"{path.name}.empty"))
    elif (end := records[-1][0]) < len(raw):
        os.truncate(path, end)


def _records(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Each whole record, and where it ends."""
    at, record = HEADER, b""
    while True:
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left  # a block's last bytes, too few for a chunk, are filled up
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6 : at + 7]
        if at + HEADER + length > len(raw) or not kind or not kind[0]:
            return
        record += raw[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind[0] in (WHOLE, LAST):
            yield at, record
            record = b""


def _is_run(record: bytes) -> bool:
    """Whether it is the record that names the file's run."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2 as proto

    with suppress(DecodeError):
        found = proto.Record.FromString(record)  # type: ignore[attr-defined]  # made at run time
        return found.WhichOneof("record_type") == "run"
    return False
