"""Passes the log of a training on to the log of the service, with the run and its phase."""

import logging
import re
from pathlib import Path

_LINE = re.compile(r"[\d-]{10} [\d:,]{12} (?P<level>[A-Z]+) (?P<logger>[\w.]+): (?P<message>.*)")
_PHASE = re.compile(r"phase ([a-z ]+)")
# What every start of Java or Spark prints.
_NOISE = re.compile(r"(NOTE: Picked|WARNING: Using|Setting default|To adjust) |.*JNI_OnLoad failed")
_BLOCK_BYTES, _LINE_BYTES = 65_536, 10_000

log = logging.getLogger(__name__)


class ChildLog:
    """A training's log file, which is read as it grows; its training does not wait for that."""

    reason = ""  # the error that the training ended with, if it has printed one

    def __init__(self, path: Path, run_id: str) -> None:
        self._file = path.open("rb")
        self._fields = {"run_id": run_id, "phase": ""}
        self._level, self._rest = logging.INFO, b""

    def pass_on(self, *, ended: bool = False) -> None:
        """Log the lines that were added; once the training has ended, also an unfinished one."""
        while block := self._file.read(_BLOCK_BYTES):
            *lines, rest = (self._rest + block).split(b"\n")
            for line in lines:
                self._log(line)
            self._rest = rest[:_LINE_BYTES]
        if ended:
            self._log(self._rest)
            self._file.close()

    def _log(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        # As the line before, but the lines of a traceback are no errors of their own.
        name, level = log.name, min(self._level, logging.INFO)
        if match := _LINE.fullmatch(text):
            name, text = match["logger"], match["message"]
            level = self._level = logging.getLevelNamesMapping().get(match["level"], logging.INFO)
            if phase := _PHASE.fullmatch(text):
                self._fields["phase"] = phase[1]
            elif text.startswith(("unexpected failure", "Spark failed: ")):
                level = logging.WARNING  # the one error is the line of its end
        elif text.startswith("error: "):
            self.reason = text.removeprefix("error: ")
            return
        elif _NOISE.match(text):
            level = logging.DEBUG
        if text and log.isEnabledFor(level):
            log.handle(log.makeRecord(name, level, "", 0, text, (), None, extra=self._fields))
