"""What goes wrong because of what we were given: one line, and status 2 of a script."""

import errno
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable

PARENT = os.getppid()  # of a further process of a run its first one, as long as that lives
MANY = 100  # choices that are listed
LONGEST = 2000  # characters of a line
JOINERS = "\u200c\u200d"  # invisible, and a part of many scripts and emoji


class Refusal(Exception):
    """Bad input. The message is one line: what, where, and what to do."""


class NotFinite(Refusal):
    """A loss or gradient is not finite: raised on every rank, before the step changed anything."""


class PartnerLost(Refusal):
    """Another process of the run was killed, or its machine was lost."""


class Stopped(BaseException):
    """A signal asked us to stop, and the state is saved.

    The exit status is 128 + its number, as the shell has it.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


def unseen(char: str) -> bool:
    """Whether a character is control, format, surrogate, private, separator, or not assigned."""
    return (
        unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp")
    ) and char not in JOINERS


def printable(text: object, keep: str = "") -> str:
    """The text with what a terminal would obey written out (\\x1b, \\u202e).

    The characters `keep` stay.
    """
    return "".join(
        _written(char) if unseen(char) and char not in keep else char for char in str(text)
    )


def _written(char: str) -> str:
    code = ord(char)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean 'x'?` for the nearest choice, or an empty string where none is like it."""
    import difflib  # a quarter of the time of `--help`

    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_of(what: str, word: str, choices: Iterable[str]) -> str:
    """One line: `what: 'word' is not one of a, b, c; did you mean 'a'?`."""
    choices = list(choices)
    listed = ", ".join(choices[:MANY]) + (
        f" and {len(choices) - MANY} more" if len(choices) > MANY else ""
    )
    return f"{what}: '{word:.100}' is not one of {listed}{nearest(word[:100], choices)}"


def command(script: str) -> str:
    """How a script is called here: `python train.py` in a checkout, `ldm-train` if installed."""
    return f"python {script}.py" if sys.argv[0].endswith(".py") else f"ldm-{script}"


def say(text: str) -> None:
    """A line, or several, for the person who watches; nothing in it is obeyed by a terminal.

    Above a progress bar, where one is open.
    """
    bars = sys.modules.get("tqdm.std")
    (bars.tqdm.write if bars else print)(printable(text, keep="\n"))
    sys.stdout.flush()


def require(holds: bool, message: str) -> None:
    """For `__post_init__` checks: a ValueError, to which the loader adds the file and the key."""
    if not holds:
        raise ValueError(message)


def ending(error: BaseException) -> tuple[int, str]:
    """The exit status of a script that an error ended, and what it says in one line.

    1: a mistake of ours, and a traceback.
    """
    if isinstance(error, Stopped):
        return 128 + error.number, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, Refusal):
        return 2, _own_words(str(error))
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left on the disk" if full else error.strerror or str(error)
        return 2, f"{error.filename or 'a file'}: {what}"
    if isinstance(error, ModuleNotFoundError) and (name := _not_installed(error)):
        where = "use the environment's python (.venv/bin/python), or pip install -e ."
        return 2, f"{name} is not installed for {sys.executable}: {where}"
    if out_of_memory(error):
        return 2, "out of memory; ask for less at once (--batch-size, --count, data.batch_size)"
    return 1, (f"{type(error).__name__}: {error}".splitlines() or [""])[0]


def _not_installed(error: ModuleNotFoundError) -> str:
    """The package of others that is not there; empty for a module of ours, or of one that is."""
    name = (error.name or "").partition(".")[0]
    return "" if name in ("", "ldm") or importlib.util.find_spec(name) else name


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, or PyTorch on any device, found no memory."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


EXPECTED = (
    *(Refusal, Stopped, KeyboardInterrupt),
    *(OSError, MemoryError, RuntimeError, ModuleNotFoundError),
)


def guard(main: Callable[[], None]) -> None:
    """Run a script's main: bad input, a full disk or a package that is not installed is one line
    and status 2, Ctrl-C is 130.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # a name that the terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _with_bars(main)
    except EXPECTED as error:
        status, line = ending(error)
        if status == 1:
            raise
        _leave(
            line,
            status,
            "" if isinstance(error, Stopped) else "error: ",  # which says itself that it stopped
            isinstance(error, PartnerLost),
        )


def _own_words(text: str) -> str:
    """What a Refusal said, without the traceback that torch puts before one of a data worker."""
    return (
        text.rpartition(f"{Refusal.__name__}: ")[2]
        if text.startswith(f"Caught {Refusal.__name__} in ")
        else text
    )


def _with_bars(main: Callable[[], None]) -> None:
    """Run it, and end the line of every progress bar still open: no message is glued to one."""
    try:
        main()
    finally:
        if bars := sys.modules.get("tqdm.std"):
            for bar in list(bars.tqdm._instances):
                bar.close()


def _leave(message: str, status: int, word: str, orphan: bool) -> None:
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    # once, not once a rank; where the first is the one that was lost, by the next
    if rank == "0" or (orphan and rank == "1" and os.getppid() != PARENT):
        line = printable(" ".join(message.split()))
        print(
            f"{word}{line[:LONGEST]}{'...' if len(line) > LONGEST else ''}",
            file=sys.stderr,
            flush=True,
        )
    sys.stdout.flush()
    sys.exit(status)
