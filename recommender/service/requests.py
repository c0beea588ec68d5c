"""Requests are counted, timed and logged by an ASGI middleware."""

import asyncio
import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from recommender.core.errors import RecommenderError
from recommender.service.problems import answer_to

_METHODS = {"GET", "HEAD", "POST", "PUT"}
_PROBES = ("/health/", "/metrics", "/next-training")

log = logging.getLogger(__name__)


class ObservedRequests:
    """ASGI middleware that observes requests by route until their answers have been sent."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        name, text = "http_request_duration_seconds", "Seconds until an answer has been sent."
        self._seconds = Histogram(name, text, ["handler", "method", "status"], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and observe the status of its answer."""
        started, status = time.perf_counter(), 0

        async def observed(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:  # by a server that stops, and that would log a traceback
            if not status:
                answer = await answer_to(Request(scope), RecommenderError("the service stops"))
                await answer(scope, receive, observed)
        finally:
            if scope["type"] == "http":
                if scope["method"] in _METHODS:  # a client may send any word
                    handler = getattr(scope.get("route"), "path", "none")
                    seconds = self._seconds.labels(handler, scope["method"], status or 500)
                    seconds.observe(time.perf_counter() - started)
                _log(scope, status or 500)


def _log(scope: Any, status: int) -> None:
    """Log an answered request; a monitor's probe that succeeded, at DEBUG."""
    is_quiet = status < 400 and scope["path"].startswith(_PROBES)
    level = logging.DEBUG if is_quiet else logging.INFO
    if log.isEnabledFor(level):
        path = get_path_with_query_string(scope)
        log.log(level, "%s %s %s %d", get_client_addr(scope), scope["method"], path, status)
