"""Renders the pages: templates, the headers of each answer, errors, and the key asked for once."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi.templating import Jinja2Templates
from jinja2 import ChainableUndefined
from starlette.exceptions import HTTPException

from recommender.core.errors import RecommenderError
from recommender.runs.ledger import now
from recommender.service.dependencies import has_page_cookie
from recommender.service.problems import problem_of

FOLDER = Path(__file__).parent
LOGIN = "/ui/login"

_SOURCES = "style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'"
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; {_SOURCES}; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def duration(seconds: float) -> str:
    """Return a duration in one or two units: ``2 h 17 min``."""
    if seconds < 60:
        return f"{max(seconds, 0):.{1 if seconds < 10 else 0}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{hours // 24} d"


def in_path(value: object, name: str) -> str:
    """Return an id as the end of a path; ``.`` and ``..``, which browsers resolve, as a query."""
    text = quote(str(value), safe="")
    return f"?{name}={text}" if text in (".", "..") else text


templates = Jinja2Templates(FOLDER / "templates")
# Documents of the ledger have parts only from the phase on that writes them.
templates.env.undefined = ChainableUndefined
templates.env.trim_blocks = templates.env.lstrip_blocks = True
templates.env.filters |= {
    "duration": duration,
    "since": lambda at: (now() - at).total_seconds(),
    "in_path": in_path,
}


def render(request: Request, name: str, status_code: int = 200, /, **context: Any) -> Response:
    """Return a page from its template."""
    return templates.TemplateResponse(request, name, context, status_code)


class PageRoute(APIRoute):
    """A route whose every answer is a page, also of an error or without the API key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with what all pages share around it."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            at_login = request.scope["path"] == LOGIN
            if not at_login and not has_page_cookie(request, request.app.state.service):
                parts = request.scope["raw_path"], request.scope["query_string"]
                asked = b"?".join(filter(None, parts))
                return RedirectResponse(f"{LOGIN}?{urlencode({'asked': asked})}", 303)
            try:
                response = await handle(request)
            except (HTTPException, RequestValidationError, RecommenderError) as error:
                problem = problem_of(error)
                response = render(request, "problem.html", problem.status, problem=problem)
            response.headers.update({**_HEADERS, **response.headers})
            return response

        return answer
