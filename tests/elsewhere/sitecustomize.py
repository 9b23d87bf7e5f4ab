"""Another system's gaps, for ldm's own code alone: LDM_TEST_SYSTEM=macos or windows makes them.

Python runs this file first where its folder is in PYTHONPATH: tests/conftest.py puts it there for
the scripts that tests start, and imports it for itself. Libraries keep everything: they run on
those systems by other paths of theirs.
"""

import builtins
import fcntl
import multiprocessing
import os
import signal
import sys
import types
from pathlib import Path

LDM = str(Path(__file__).parents[2] / "ldm")
MACOS = {
    "os": (
        "posix_fallocate",
        "posix_fadvise",
        "sched_getaffinity",
        "sched_setaffinity",
        "memfd_create",
    )
}
WINDOWS = {
    "os": (
        "posix_fallocate",
        "posix_fadvise",
        "sched_getaffinity",
        "sched_setaffinity",
        "memfd_create",
        "fork",
        "setsid",
        "getpgid",
        "killpg",
        "getuid",
        "geteuid",
        "getloadavg",
        "sysconf",
        "statvfs",
        "uname",
        "nice",
        "mkfifo",
        "fchmod",
        "chown",
        "pread",
        "pwrite",
        "wait4",
    ),
    "signal": tuple(
        "SIGKILL SIGUSR1 SIGUSR2 SIGHUP SIGXCPU SIGALRM pthread_sigmask setitimer sigwait".split()  # noqa: SIM905
    ),
}
PLATFORMS = {"macos": "darwin", "windows": "win32"}
MODULES = {"macos": (), "windows": ("resource", "fcntl", "pwd", "grp", "termios", "syslog")}


msvcrt = types.SimpleNamespace(  # what ldm uses of it: a lock on a byte of a file
    LK_NBLCK=fcntl.LOCK_EX | fcntl.LOCK_NB,
    LK_UNLCK=fcntl.LOCK_UN,
    locking=lambda file, mode, count: fcntl.lockf(file, mode, count),
)


def ours() -> bool:
    """Whether the code that asks is ldm's."""
    return sys._getframe(2).f_code.co_filename.startswith(LDM)


def hide(module, names, instead=None) -> None:
    """Make a module's names missing for ldm, or others."""
    hidden = {name: module.__dict__.pop(name) for name in names if name in module.__dict__}

    def __getattr__(name):
        if name in hidden and not ours():
            return hidden[name]
        if instead and name in instead:
            return instead[name]
        raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")

    module.__getattr__ = __getattr__


def become(system: str) -> None:
    """The gaps of a system, and its way to start workers."""
    for name, names in {"macos": MACOS, "windows": WINDOWS}[system].items():
        hide({"os": os, "signal": signal}[name], names)
    hide(sys, ["platform"], {"platform": PLATFORMS[system]})
    real = builtins.__import__

    def __import__(name, *rest, **more):
        if name in MODULES[system] and ours():
            raise ImportError(f"No module named '{name}'")
        if name == "msvcrt" and system == "windows" and ours():
            return msvcrt
        return real(name, *rest, **more)

    builtins.__import__ = __import__
    multiprocessing.set_start_method("spawn", force=True)


if os.environ.get("LDM_TEST_SYSTEM"):
    become(os.environ["LDM_TEST_SYSTEM"])
