"""Logging without secrets: formatter, handlers and one-line errors."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import parse_qsl, unquote, unquote_plus

from recommender.core.settings import Settings

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEAST_SECRET_LENGTH = 3  # a shorter one would mask the log into noise
_secrets: list[str] = []  # of this process; a script's last line is written without logging


class RedactingFormatter(logging.Formatter):
    """Formats log records with secrets masked and control characters removed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(_LOG_FORMAT)
        self._secrets = secrets

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record's line; control characters in its message become spaces."""
        record.message = one_line(redact(record.message, self._secrets), limit=10_000)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text; the lines of a traceback are indented."""
        return "\n  ".join(redact(super().format(record), self._secrets).splitlines())


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return ``text`` with every secret replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def configure_logging(settings: Settings) -> None:
    """Log to stderr from ``LOG_LEVEL`` up, with the settings' secrets masked."""
    log_to_stderr(settings.log_level, secrets_of(settings))
    for library in ("py4j", "pymongo", "apscheduler", "urllib3", "matplotlib"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.root.level))


def log_to_stderr(level: str, secrets: Sequence[str]) -> None:
    """Log to stderr from a level up, with these secrets masked."""
    _secrets[:] = secrets
    handler = logging.StreamHandler(sys.stderr)
    set_log_format(handler, secrets)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def set_log_format(handler: logging.Handler, secrets: Sequence[str]) -> None:
    """Mask secrets in a handler's lines, and drop py4j's own records."""
    handler.setFormatter(RedactingFormatter(secrets))
    # py4j logs a traceback for every call that a signal interrupts. A call that fails raises an
    # error too, which is logged where it is handled.
    handler.addFilter(lambda record: "/py4j/" not in record.pathname)


def print_error(reason: str) -> None:
    """Write a script's last line, its error, to stderr."""
    secrets = [*_secrets, *secrets_of_environment()]
    with suppress(OSError):  # its reader is gone, or its disk full
        sys.stderr.write(f"error: {one_line(redact(reason, secrets))}\n")


def one_line(text: object, limit: int = 500) -> str:
    """Return ``text`` on one line of at most ``limit`` characters, fit for a log or the ledger."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def secrets_of_environment() -> list[str]:
    """Return the strings to mask in logs before the settings are read, longest first."""
    return _secrets_in(os.environ.get("MONGO_URI", ""), os.environ.get("API_KEY", ""))


def secrets_of(settings: Settings) -> list[str]:
    """Return the strings to mask in logs, longest first."""
    key = settings.api.key.get_secret_value() if settings.api.key else ""
    return _secrets_in(settings.mongo.uri.get_secret_value(), key)


def _secrets_in(uri: str, api_key: str) -> list[str]:
    """Return the strings to mask, also for an invalid URI, since an error may quote it."""
    rest = uri.partition("://")[2]
    credentials = [part.rpartition("@")[0] for part in (rest, re.split("[/?]", rest)[0])]
    passwords = {text.partition(":")[2] for text in credentials}
    for name, value in parse_qsl(rest.partition("?")[2]):
        if name.lower().endswith(("password", "mechanismproperties")):
            passwords.add(value)
    passwords.discard("")
    secrets = {api_key, *passwords, *map(unquote, passwords), *map(unquote_plus, passwords)}
    if passwords:
        secrets.add(uri)
    return sorted((s for s in secrets if len(s) >= _LEAST_SECRET_LENGTH), key=len, reverse=True)
