"""What goes wrong because of what we were given, said in one line: scripts print it and end with status 2."""

import errno
import os
import sys
from collections.abc import Callable, Iterable

from ldm.names import printable


class Refusal(Exception):
    """Bad input. The message is one line: what, where, and what to do."""


class NotFinite(Refusal):
    """A loss or gradient that is not finite: raised on every rank, before the step changed anything."""


class Stopped(BaseException):
    """A signal asked us to stop, and the state is saved. The exit status is 128 + its number, as the shell has it."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest choice, or an empty string."""
    import difflib  # a quarter of the time of `--help`

    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_of(what: str, word: str, choices: Iterable[str]) -> str:
    """`what: 'word' is not one of a, b, c; did you mean 'a'?`"""
    choices = list(choices)
    return f"{what}: '{word}' is not one of {', '.join(choices)}{nearest(word, choices)}"


def command(script: str) -> str:
    """How a script is called here: `python train.py` in a checkout, `ldm-train` where ldm is installed."""
    return f"python {script}.py" if sys.argv[0].endswith(".py") else f"ldm-{script}"


def say(text: str) -> None:
    """A line, or several, for the person who watches; nothing in it is obeyed by a terminal."""
    print(printable(text, keep="\n"), flush=True)


def require(holds: bool, message: str) -> None:
    """For `__post_init__` checks: a ValueError, to which the loader adds the file and the key."""
    if not holds:
        raise ValueError(message)


def guard(main: Callable[[], None]) -> None:
    """Run a script's main: a Refusal, a full disk or a full memory is one line and status 2, Ctrl-C is status 130."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for
    try:
        main()
    except Refusal as error:
        _leave(str(error), 2)
    except Stopped as stop:
        _leave(str(stop), 128 + stop.number, "stopped")
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except MemoryError:
        _leave("out of memory; ask for less at once (--batch-size, --count, data.batch_size)", 2)
    except OSError as error:
        what = "no space left on the disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        _leave(f"{error.filename or 'a file'}: {what}", 2)


def _end_bars() -> None:
    """End the line of every progress bar that is still open, so that no message is glued to it."""
    if bars := sys.modules.get("tqdm.std"):
        for bar in list(bars.tqdm._instances):
            bar.close()


def _leave(message: str, status: int, word: str = "error") -> None:
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":  # once, not once a rank
        _end_bars()
        print(f"{word}: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.exit(status)
