"""Logging without secrets: formatter, handlers and one-line errors."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, unquote_plus

from recommender.core.settings import Settings

# The secrets of this process; a script's last line is written without logging.
_secrets: list[str] = []

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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
        text = redact(super().format(record), self._secrets)
        return "\n  ".join(text.splitlines())


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return ``text`` with every secret replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def configure_logging(settings: Settings) -> None:
    """Log to stderr from ``LOG_LEVEL`` up, with the settings' secrets masked."""
    log_to_stderr(settings.log_level, secrets_of(settings))
    for library in ("py4j", "pymongo", "apscheduler", "urllib3"):
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


def secrets_of_environment() -> list[str]:
    """Return the secrets that the environment holds, for use before the settings are read."""
    return secrets_in(os.environ.get("MONGO_URI", ""), os.environ.get("API_KEY", ""))


def print_error(reason: str) -> None:
    """Write a script's last line, its error, to stderr."""
    sys.stderr.write(f"error: {one_line(redact(reason, [*_secrets, *secrets_of_environment()]))}\n")


def one_line(text: object, limit: int = 500) -> str:
    """Return ``text`` on one line of at most ``limit`` characters, fit for a log or the ledger."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def secrets_of(settings: Settings) -> list[str]:
    """Return the strings to mask in logs, longest first."""
    key = settings.api.key.get_secret_value() if settings.api.key else ""
    return secrets_in(settings.mongo.uri.get_secret_value(), key)


def secrets_in(uri: str, api_key: str = "") -> list[str]:
    """Return the secrets in a MongoDB URI and an API key, longest first.

    Passwords are found in an invalid URI too, since an error may quote it.
    """
    rest = uri.partition("://")[2]
    secrets = {api_key}
    for part in (rest, re.split("[/?]", rest)[0]):
        credentials, at, _ = part.rpartition("@")
        secrets.add(credentials.partition(":")[2] if at else "")
    for name, value in parse_qsl(rest.partition("?")[2]):
        if name.lower().endswith(("password", "mechanismproperties")):
            secrets.add(value)
    passwords = {secret for secret in secrets - {api_key} if secret}
    secrets |= {unquote(secret) for secret in passwords}
    secrets |= {unquote_plus(secret) for secret in passwords} | ({uri} if passwords else set())
    return sorted(secrets - {""}, key=len, reverse=True)
