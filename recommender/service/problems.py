"""Errors of the API as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from recommender.core.errors import LeaseHeldError, RecommenderError

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER = {409: {"Retry-After": "60"}, 503: {"Retry-After": "15"}}  # seconds

log = logging.getLogger(__name__)


class Problem(BaseModel):
    """An error of a request (RFC 9457); it may have more members."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these error statuses."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def handle_errors(app: FastAPI) -> None:
    """Answer every error of the application with a problem."""
    for kind in (HTTPException, RequestValidationError, RecommenderError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    match error:
        case HTTPException():
            return _problem(error.status_code, str(error.detail), error.headers or {})
        case RequestValidationError():
            reasons = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            return _problem(422, "; ".join(reasons))
        case LeaseHeldError():
            holder = {key: error.holder.get(key) for key in ("run_id", "host", "started_at")}
            return _problem(409, str(error), None, **holder)
        case RecommenderError():
            return _problem(503, str(error))
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _problem(500, "an unexpected failure; the service's log has its traceback")


def _problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, **members)
    return JSONResponse(
        content.model_dump(mode="json"),
        status,
        media_type=MEDIA_TYPE,
        headers=_RETRY_AFTER.get(status) if headers is None else headers,
    )
