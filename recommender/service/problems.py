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


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    """Return a problem as a response.

    Parameters
    ----------
    status
        HTTP status; the title is its phrase.
    detail
        What happened and what to do, in a sentence.
    members
        More members of the problem, such as the run in progress.
    """
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, **members)
    return JSONResponse(
        content.model_dump(mode="json"),
        status,
        media_type=MEDIA_TYPE,
        headers=headers or _RETRY_AFTER.get(status),
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these error statuses."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def handle_errors(app: FastAPI) -> None:
    """Answer every error of the application with a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(LeaseHeldError, _lease_held)
    app.add_exception_handler(RecommenderError, _unavailable)
    app.add_exception_handler(Exception, _unexpected)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return problem(error.status_code, str(error.detail), error.headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return problem(422, reasons)


async def _lease_held(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LeaseHeldError)  # noqa: S101
    holder = {key: error.holder.get(key) for key in ("run_id", "host", "started_at")}
    return problem(409, str(error), None, **holder)


async def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    return problem(503, str(error))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "an unexpected failure; the service's log has its traceback")
