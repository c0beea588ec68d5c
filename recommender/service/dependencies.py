"""What routes share: resources, the API key, the origin, ids, ratings in a query, and runs."""

import functools
import hmac
import logging
import os
import re
from asyncio import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client.registry import Collector
from pydantic import SecretStr
from starlette.convertors import PathConvertor, register_url_convertor

from recommender.core.logs import redact, secrets_of
from recommender.core.mongo import Document, MongoDatabase, quick_read
from recommender.core.ports import is_loopback
from recommender.core.settings import Settings
from recommender.data.one_user import split_rated
from recommender.runs.ledger import Ledger
from recommender.service.catalog import Catalog
from recommender.service.launcher import Trainer
from recommender.service.progress import Progress
from recommender.service.schedule import Schedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """The resources of a running service."""

    settings: Settings
    db: MongoDatabase
    trainer: Trainer
    schedule: Schedule
    progress: Progress
    catalog: Catalog
    metrics: Collector
    # The clients that follow a run, and the latest readings of runs, by their ids.
    followers: set[object] = field(default_factory=set)
    readings: dict[str, tuple[float, Future[Any]]] = field(default_factory=dict)


# A coroutine: FastAPI runs plain functions in its thread pool, where they wait for a free thread.
async def _current(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(_current)]


class IdConvertor(PathConvertor):
    """The rest of a path as an id, which may hold slashes and line breaks."""

    regex = "(?s:.+)"


register_url_convertor("id", IdConvertor())

PAGE_COOKIE = "recommender_page"


def page_token(key: SecretStr) -> str:
    """Return what the page's cookie holds instead of the API key; a new key makes it invalid."""
    return hmac.new(key.get_secret_value().encode(), b"the page's cookie", "sha256").hexdigest()


def has_page_cookie(request: Request, service: Service) -> bool:
    """Return true if the page's cookie is valid, or no API key is set."""
    key, cookie = service.settings.api.key, request.cookies.get(PAGE_COOKIE, "")
    return key is None or hmac.compare_digest(cookie.encode(), page_token(key).encode())


async def require_key(
    request: Request,
    service: CurrentService,
    header: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    """Answer 401 to a request without the API key or the page's cookie, if a key is set."""
    if service.settings.api.key is None:
        warn_if_exposed(*(request.scope.get("server") or ("localhost", None)))
        return
    if has_page_cookie(request, service):
        return
    expected = service.settings.api.key.get_secret_value().encode()
    key = header if header is not None else bearer.credentials if bearer else ""
    # Starlette decodes header bytes as Latin-1; the client may have sent UTF-8.
    if not hmac.compare_digest(key.encode("latin-1"), expected):
        detail = "send the API key as X-API-Key, or as Authorization: Bearer"
        raise HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


@functools.cache  # once for each address
def warn_if_exposed(host: str, port: int | None) -> None:
    """Warn if an address without an API key can be reached from other machines."""
    if port and not is_loopback(host):
        log.warning("requests reach %s:%d and API_KEY is not set: set it", host, port)


async def require_same_origin(request: Request, service: CurrentService) -> None:
    """Answer 403 to a request that a browser sends for a page of another site.

    Browsers send its origin with every POST, others need not. Another site may lead its domain name
    to this address (DNS rebinding): without an API key, no domain name is accepted.
    """
    origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise HTTPException(403, f"a page of {origin} may not send this to {host}")
    is_domain = re.search(r"\.[a-z]", host.lower())
    if origin is not None and service.settings.api.key is None and is_domain:
        raise HTTPException(403, f"set API_KEY, so that pages may send this to {host}")


def rated_from_query(rated: list[str]) -> dict[str, str]:
    """Return ratings by id from texts ``gmap_id=rating``; 422 if one is invalid."""
    try:
        return dict(map(split_rated, rated))
    except ValueError as error:
        invalid = {"type": "value", "loc": ("query", "rated"), "msg": str(error), "input": rated}
        raise RequestValidationError([invalid]) from None


@quick_read("reading the ledger")
def document_of(service: Service, run_id: str) -> Document:
    """Return the ledger's document of a run; 404 for an unknown one."""
    document = Ledger(service.db).get(run_id)
    if document is None:
        raise HTTPException(404, f"no run {run_id} is in the ledger; GET /runs lists the latest")
    return document


def end_of_log(service: Service, run_id: str, size: int) -> str | None:
    """Return the last bytes of a run's log without secrets, None if it is not in ``WORK_DIR``.

    The path comes from a checked id, never from the database.
    """
    try:
        with (service.settings.log_dir / f"{run_id}.log").open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            if file.seek(max(0, end - size)):
                file.readline()  # the rest of a line may hold the rest of a secret
            text = file.read(size).decode("utf-8", "replace")
    except OSError:
        return None
    return redact(text, secrets_of(service.settings))
