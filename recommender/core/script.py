"""The entry of all scripts: logs without secrets, signals, one line and exit code per failure."""

import argparse
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from recommender.core.errors import RecommenderError
from recommender.core.logs import log_to_stderr, print_error, secrets_of_environment
from recommender.core.signals import Stopped, ignore_signals, raise_on_signals

# In the order of --help.
EXIT_CODES = {
    0: "success",
    1: "an unexpected failure; the log has its traceback",
    2: "usage: an invalid argument",
    65: "data: nothing to train on, or an unreadable file",
    66: "nothing to roll back to, or it is incomplete; the published model stays",
    69: "MongoDB is unavailable or refused",
    70: "Spark failed, or the staged collections failed their checks",
    75: "another training is in progress, or took over",
    76: "the gate rejected the recommendations or the clusters; the published ones stay",
    78: "configuration: an invalid setting, or Java is missing",
    124: "the training took longer than TRAIN_TIMEOUT_MINUTES",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM, or cancelled on request",
    141: "the output cannot be written: its reader is gone, as after `| head`, or its disk is full",
}
TRAINING_CODES = (65, 69, 70, 75, 76, 124)
READER_CODES = (65, 69)
_EVERY_SCRIPT = (0, 1, 2, 78, 130, 143, 141)
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def script_parser(
    description: str, *codes: int, prog: str | None = None, json: bool = True
) -> argparse.ArgumentParser:
    """Return a parser, with ``--json`` or not, whose help ends with the exit codes.

    ``codes`` are those that not every script has.
    """
    documented = [code for code in EXIT_CODES if code in (*_EVERY_SCRIPT, *codes)]
    lines = [f"  {code:<4} {EXIT_CODES[code]}" for code in documented]
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="\n".join(["exit codes:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def run_script(main: Callable[[Sequence[str] | None], int]) -> int:
    """Run ``main`` on the command line's arguments; return its exit code, or its failure's."""
    raise_on_signals()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    log_to_stderr("INFO", secrets_of_environment())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of names in a narrow encoding
    try:
        code = main(None)
        sys.stdout.flush()
        return code
    except (RecommenderError, Stopped) as error:
        print_error(str(error))
        return error.exit_code
    except Exception as error:
        # An error of another file has its name.
        if isinstance(error, OSError) and error.errno in _UNWRITABLE and not error.filename:
            if error.errno != errno.EPIPE:  # else the reader, such as `head`, has read enough
                print_error(f"the output could not be written: {error.strerror}")
            # Python's own flush must not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        logging.getLogger(__name__).exception("unexpected failure")
        print_error(f"{type(error).__name__}: {error}")
        return 1
    finally:
        ignore_signals()  # only the interpreter's own end is left
