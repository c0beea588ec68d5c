"""The service's log: in colour on a terminal, else JSON."""

import logging
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import EventDict

from recommender.core.logs import configure_logging, one_line, redact, secrets_of
from recommender.core.settings import Settings


def configure_service_logging(settings: Settings, *, as_json: bool = False) -> None:
    """Log to stderr as JSON, but in colour on a terminal unless ``as_json``; mask secrets."""
    configure_logging(settings)
    is_terminal = sys.stderr.isatty() and not as_json
    formatter = service_formatter(secrets_of(settings), is_terminal=is_terminal)
    logging.root.handlers[0].setFormatter(formatter)


def service_formatter(secrets: Sequence[str], *, is_terminal: bool) -> logging.Formatter:
    """Return a formatter with run and phase of a training's lines, and with secrets masked."""

    def mask(_logger: object, _method: str, event: EventDict) -> EventDict:
        masked = {name: redact(str(value), secrets) for name, value in event.items()}
        return masked | {"event": one_line(masked["event"], limit=10_000)}

    plain = structlog.dev.plain_traceback  # a pretty one shows local variables
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(["run_id", "phase"]),
            structlog.processors.TimeStamper(fmt="iso"),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            mask,
            structlog.dev.ConsoleRenderer(exception_formatter=plain)
            if is_terminal
            else structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
