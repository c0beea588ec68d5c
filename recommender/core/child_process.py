"""Child processes that end when their parent does, however the parent ends.

A guard, a small process between the two, holds the reading end of a pipe whose writing end only the
parent has. When the parent closes it, or is killed so that the kernel does, the guard stops the
child. Unlike the kernel's own signal at a parent's death, this does not take the end of the thread
that started the child for the end of the parent. This file is the guard's program, too: run by
path, it imports the standard library alone, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

_NOT_FOUND = 127
_PR_SET_PDEATHSIG = 1


class Guarded:
    """A child process under guard, in a session of its own: a terminal's Ctrl-C does not reach it.

    Parameters
    ----------
    command
        The program and its arguments.
    grace_seconds
        How long the child may take from SIGTERM to its end before it is killed, and with it the
        rest of its process group.
    env
        The child's environment; None: this process's.
    remove
        A folder that the guard removes once it has stopped the child, also for a killed parent.
    output
        Where the child's output and errors go; None: where this process's go.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        grace_seconds: float,
        env: Mapping[str, str] | None = None,
        remove: Path | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        guard = [sys.executable, "-I", "-S", __file__, str(grace_seconds), str(remove or "")]
        self._process = subprocess.Popen(
            [*guard, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=env,
            start_new_session=True,
            bufsize=0,
        )

    def poll(self) -> int | None:
        """Return the child's exit code, 128 + n if signal n ended it; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the child's end and return its exit code, as :meth:`poll` does.

        Raises
        ------
        subprocess.TimeoutExpired
            If it still runs after ``timeout`` seconds.
        """
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Stop the child, by SIGTERM and after the grace by SIGKILL; return its exit code."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        # A fork of this process may hold the pipe open, so closing it alone would not do.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(b"\0")
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def _guard(grace_seconds: float, remove: str, command: Sequence[str]) -> int:
    """Run the child until it ends or the lifeline on stdin does; return its exit code."""
    libc = ctypes.CDLL(None)

    def die_with_the_guard() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    try:
        # Safe here: the guard has one thread yet, and it is the one that waits to the end.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_the_guard,
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error}\n")
        return _NOT_FOUND
    stopping = threading.Event()
    watch = threading.Thread(
        target=_stop_at_the_end, args=(child, grace_seconds, stopping), daemon=True
    )
    watch.start()
    code = child.wait()
    with contextlib.suppress(ProcessLookupError):  # what the child started and left behind
        os.killpg(child.pid, signal.SIGKILL)
    if remove and stopping.is_set():
        shutil.rmtree(remove, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _stop_at_the_end(
    child: subprocess.Popen[bytes], grace_seconds: float, stopping: threading.Event
) -> None:
    os.read(0, 1)
    stopping.set()
    child.terminate()
    try:
        child.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(_guard(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
