"""Child processes that end when their parent does, however the parent ends.

A guard, a small process between the two, stops the child when the pipe that only the parent writes
to is closed. (The kernel's own signal would come when the thread that started the child ends.) This
file is the guard's program, too: it imports the standard library alone, to start in milliseconds.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_NOT_FOUND = 127
_PR_SET_PDEATHSIG = 1


class Guarded(subprocess.Popen[bytes]):
    """A child process under guard, in a session of its own: a terminal's Ctrl-C does not reach it.

    Its exit code is 128 + n if signal n ended it. After ``grace_seconds`` from SIGTERM, it and its
    process group are killed. ``output`` takes the child's output and errors, else this process's.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        grace_seconds: float,
        env: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        guard = [sys.executable, "-I", "-S", __file__, str(grace_seconds)]
        super().__init__(
            [*guard, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=env,
            start_new_session=True,
            bufsize=0,
        )

    def stop(self) -> int:
        """Stop the child, by SIGTERM and after the grace by SIGKILL; return its exit code."""
        assert self.stdin is not None  # noqa: S101 - a pipe, for mypy
        # A fork of this process may hold the pipe open, so closing it alone is not enough.
        with contextlib.suppress(OSError, ValueError), self.stdin as pipe:
            pipe.write(b"\0")
        return self.wait()

    def __exit__(self, *_error: object) -> None:
        self.stop()


def _guard(grace_seconds: float, command: Sequence[str]) -> int:
    """Run the child until it ends or the pipe on stdin does; return its exit code."""
    libc = ctypes.CDLL(None)

    def die_with_the_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def stop_when_stdin_ends() -> None:
        os.read(0, 1)
        child.terminate()
        try:
            child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)

    try:
        # preexec_fn is safe: the guard has one thread here, and that one waits to the end.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=die_with_the_guard
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} does not start: {error}\n")
        return _NOT_FOUND
    threading.Thread(target=stop_when_stdin_ends, daemon=True).start()
    code = child.wait()
    with contextlib.suppress(ProcessLookupError):  # processes that the child left behind
        os.killpg(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(_guard(float(sys.argv[1]), sys.argv[2:]))
