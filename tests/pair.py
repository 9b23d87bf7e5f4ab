"""Two processes of one job that stay: each script that two run is spared the seconds of their start.

What starts them is Lightning's own launcher (`ldm.system.processes.launch`), and what a script does
in them is what it does in a job that somebody else has launched. Tests of the start itself, of
signals and of a process that dies start processes of their own.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time

from helpers import ROOT, here, without_key


class Pair:
    """Called as `helpers.script` is: both processes run it, and both are heard."""

    def __init__(self):
        self.job = None

    def __call__(self, name, *arguments, timeout=200, **environment):
        if self.job is None or self.job.poll() is not None:
            self._start()
        order = json.dumps([name, [*map(str, arguments)], environment])
        try:
            print(order, file=self.job.stdin, flush=True)
            every = json.loads(self._answer(time.monotonic() + timeout))
        except BaseException:
            self._kill()  # one of them may wait for the other
            raise
        status = max(one[0] for one in every)
        if status:
            self.close()
        said, complained = ("".join(one[k] for one in every) for k in (1, 2))
        return subprocess.CompletedProcess([name, *arguments], status, said, complained)

    def close(self):
        if self.job is None:
            return
        self.job.stdin.close()
        try:
            self.job.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._kill()

    def _start(self):
        self.answers, theirs = os.pipe()
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.noise = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.job = subprocess.Popen(
            [sys.executable, __file__, str(theirs)],
            pass_fds=[theirs],
            cwd=ROOT,
            env=without_key(PYTHONPATH=path),
            stdin=subprocess.PIPE,
            stdout=self.noise,
            stderr=self.noise,
            text=True,
            start_new_session=True,
        )
        os.close(theirs)

    def _answer(self, end):
        """A line of theirs, until `end` on the monotonic clock."""
        found = b""
        while not found.endswith(b"\n"):
            ready = select.select([self.answers], [], [], max(0, end - time.monotonic()))[0]
            part = os.read(self.answers, 1 << 16) if ready else b""
            if not part:
                self.noise.seek(0)
                raise AssertionError(f"the two processes do not answer: {self.noise.read()}")
            found += part
        return found

    def _kill(self):
        os.killpg(self.job.pid, 9)
        self.job.wait()


def serve():
    """In each of the two: the first reads what is to be run and writes what came of it."""
    import torch.distributed as dist

    from ldm.system.processes import launch

    first = launch(2, "cpu").global_rank == 0
    while True:
        order = [sys.stdin.readline() if first else None]
        dist.broadcast_object_list(order)
        if not order[0]:
            break
        name, arguments, environment = json.loads(order[0])
        done, every = here(name, *arguments, **environment), [None, None]
        dist.all_gather_object(every, [done.returncode, done.stdout, done.stderr])
        if first:
            os.write(int(sys.argv[1]), json.dumps(every).encode() + b"\n")


if __name__ == "__main__":
    serve()
