"""The log file of a run that is started by hand; the service keeps the logs of its own."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recommender.core.errors import ConfigurationError, RecommenderError
from recommender.core.logs import secrets_of, set_log_format
from recommender.core.settings import Settings
from recommender.core.signals import Stopped

log = logging.getLogger(__name__)


@contextmanager
def run_log(settings: Settings, run_id: str) -> Iterator[Path | None]:
    """Copy the block's log lines, and how it ended, to a file; warn if it cannot be written."""
    handler = None
    try:
        settings.make_folder(settings.log_dir)
        path = settings.log_dir / f"{run_id}.log"
        handler = _RunLog(path, encoding="utf-8", errors="backslashreplace")
    except (ConfigurationError, OSError) as error:
        log.warning("this run has no log file: %s", error)
    if handler is None:
        yield None
        return
    set_log_format(handler, secrets_of(settings))
    logging.root.addHandler(handler)
    try:
        yield Path(handler.baseFilename)
    except BaseException as error:
        handler.add_end(error)
        raise
    finally:
        logging.root.removeHandler(handler)
        with suppress(OSError):  # of a full disk
            handler.close()


class _RunLog(logging.FileHandler):
    def add_end(self, error: BaseException) -> None:
        """Write the error that ended the run, with a traceback if it is unexpected."""
        expected = isinstance(error, (RecommenderError, Stopped))
        text = str(error) or type(error).__name__
        about = None if expected else sys.exc_info()
        self.handle(logging.LogRecord(__name__, logging.ERROR, "", 0, text, None, about))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Stop writing the file after a failure, such as a full disk."""
        error = sys.exception()
        if isinstance(error, OSError):
            logging.root.removeHandler(self)
            log.warning("%s is not written any further: %s", self.baseFilename, error)
        else:
            super().handleError(record)
