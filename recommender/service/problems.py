"""Errors of the API as ``application/problem+json`` (RFC 9457)."""

import logging
import reprlib
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from recommender.core import errors

MEDIA_TYPE = "application/problem+json"
# An error's `code`: by exception class if listed, else by status.
_CODES: dict[int | type[Exception], str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "body_too_long",
    422: "invalid_request",
    500: "unexpected",
    503: "unavailable",
    errors.LeaseHeldError: "training_in_progress",
    errors.DatabaseUnavailableError: "mongodb_unavailable",
    errors.ConfigurationError: "configuration",
}
_SCHEMAS = "#/components/schemas/"
_RETRY = {409: {"Retry-After": "60"}, 503: {"Retry-After": "15"}}  # seconds

log = logging.getLogger(__name__)


class InvalidValue(BaseModel):
    """An invalid value of a request."""

    pointer: str = Field(description="JSON pointer to it", examples=["#/query/limit"])
    detail: str


class Problem(BaseModel):
    """An error of a request (RFC 9457); it may have more members."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    code: str = Field(json_schema_extra={"enum": [*_CODES.values()]})
    detail: str
    errors: list[InvalidValue] | None = Field(None, description="of invalid_request")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these error statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


def handle_errors(app: FastAPI) -> None:
    """Answer every error of the application with a problem, and describe it in OpenAPI."""
    for kind in (HTTPException, RequestValidationError, errors.RecommenderError, Exception):
        app.add_exception_handler(kind, answer_to)
    describe = app.openapi

    def described() -> dict[str, Any]:
        problem = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
        description = describe()
        description["components"]["schemas"] |= problem.pop("$defs", {}) | {"Problem": problem}
        return description

    app.openapi = described  # type: ignore[method-assign]


async def answer_to(request: Request, error: Exception) -> JSONResponse:
    """Return the answer to a failed request."""
    problem = problem_of(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    headers = getattr(error, "headers", None) or _RETRY.get(problem.status)
    content = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, problem.status, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """Return the answer to the caller: what was found, and what is expected."""
    match error:
        case HTTPException():
            return _problem(error.status_code, str(error.detail))
        case RequestValidationError():
            invalid = [*map(_explain, error.errors())]
            detail = "; ".join(f"{each['pointer']}: {each['detail']}" for each in invalid)
            return _problem(422, detail, errors=invalid)
        case errors.LeaseHeldError():
            holder: Any = {key: error.holder.get(key) for key in ("run_id", "host", "started_at")}
            return _problem(409, str(error), _CODES[errors.LeaseHeldError], **holder)
        case errors.RecommenderError():
            return _problem(503, str(error), _CODES.get(type(error)))
    return _problem(500, "an unexpected failure; the service's log has its traceback")


def _explain(error: Any) -> dict[str, str]:
    detail = error["msg"].replace("dictionary or object to extract fields from", "JSON object")
    cause = "" if error["type"] == "missing" else f", found {reprlib.repr(error['input'])}"
    loc = error["loc"]
    if error["type"] == "json_invalid":
        loc, cause = loc[:1], f": {error['ctx']['error']}"
    path = (str(key).replace("~", "~0").replace("/", "~1") for key in loc)
    return {"pointer": "/".join(["#", *path]), "detail": detail + cause}


def _problem(status: int, detail: str, code: str | None = None, **members: Any) -> Problem:
    title, code = HTTPStatus(status).phrase, code or _CODES.get(status, "bad_request")
    return Problem(title=title, status=status, code=code, detail=detail, **members)
