"""``/runs``: the ledger of trainings; a run in progress can be followed and cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field

from recommender.core.errors import DatabaseUnavailableError, RecommenderError
from recommender.core.mongo import Document, quick_read
from recommender.runs.ledger import OPEN_STATES, STATES, Ledger, State, Trigger
from recommender.service.dependencies import (
    CurrentService,
    Service,
    document_of,
    end_of_log,
    require_key,
    require_same_origin,
)
from recommender.service.problems import responses

_LOG_BYTES = 1_000_000  # read at most
_POLL_SECONDS = 1.0
_MOST_CLIENTS = 50  # that follow runs
_MOST_SECONDS = 900.0  # of one client; browsers come again

router = APIRouter(prefix="/runs", dependencies=[Depends(require_key)])

_RUN_ID = r"^[0-9A-Za-z-]{1,64}$"
RunId = Annotated[str, Path(pattern=_RUN_ID, description="a run's id")]


class Run(BaseModel):
    """A run as the ledger has it; a run in progress gains more fields."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    # Not checked: another version's runs may have other values.
    state: str = Field(json_schema_extra={"enum": [*STATES]})
    trigger: str = Field(json_schema_extra={"enum": [*get_args(Trigger)]})
    forced: bool = Field(False, description="whether the gate was off: GATE, --force or ?force")
    phase: str | None = None
    exit_code: int | None = None
    error: str | None = None


class Runs(BaseModel):
    """The latest runs."""

    runs: list[Run]


@router.get("", responses=responses(401, 422, 503))
@quick_read("reading the ledger")
def runs(
    service: CurrentService,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many at most")] = 20,
    state: Annotated[State | None, Query(description="only runs in this state")] = None,
    trigger: Annotated[Trigger | None, Query(description="only runs started so")] = None,
    before: Annotated[str | None, Query(pattern=_RUN_ID, description="only older runs")] = None,
    summary: Annotated[bool, Query(description="without settings, versions and metrics")] = False,
) -> Runs:
    """List the latest runs, newest first."""
    without = ("settings", "versions", "metrics", "chosen", "gate") if summary else ()
    latest = Ledger(service.db).recent(limit, before, *without, state=state, trigger=trigger)
    return Runs(runs=[_shown(document) for document in latest])


@router.get("/{run_id}", responses=responses(401, 404, 422, 503))
def run(service: CurrentService, run_id: RunId) -> Run:
    """Show one run."""
    return _shown(document_of(service, run_id))


def _shown(document: Document) -> Run:
    return Run(**{key: value for key, value in document.items() if key != "_id"})


@router.post(
    "/{run_id}/cancel",
    status_code=202,
    responses=responses(401, 403, 404, 409, 422, 503),
    dependencies=[Depends(require_same_origin)],
)
@quick_read("cancelling the run")
def cancel(service: CurrentService, response: Response, run_id: RunId) -> Run:
    """Ask a run in progress to stop, on any host; within seconds it ends as cancelled."""
    requested = Ledger(service.db).request_cancel(run_id)
    shown = run(service, run_id)
    if not requested:
        raise HTTPException(409, f"run {run_id} has ended: it is {shown.state}")
    response.headers["Location"] = f"/runs/{run_id}"
    return shown


@router.get("/{run_id}/log", responses=responses(401, 404, 422), response_class=PlainTextResponse)
def run_log(
    service: CurrentService,
    run_id: RunId,
    tail: Annotated[int, Query(ge=1, le=10_000, description="how many lines at most")] = 200,
) -> str:
    """Show the last lines of a run's log; it is on the host of the run."""
    text = end_of_log(service, run_id, _LOG_BYTES)
    if text is None:
        raise HTTPException(404, f"the log of run {run_id} is not in the WORK_DIR of this service")
    return "".join(f"{line}\n" for line in text.rstrip("\n").split("\n")[-tail:])


async def _follower(service: CurrentService, run_id: RunId) -> AsyncIterator[Document]:
    """Count a client until its connection ends; yield the run that it follows."""
    if len(service.followers) >= _MOST_CLIENTS:
        raise RecommenderError("too many clients follow runs; poll GET /runs/{run_id} instead")
    service.followers.add(me := object())
    try:
        yield await _read(service, run_id)
    finally:
        service.followers.discard(me)
        service.readings.pop(run_id, None)


@router.get(
    "/{run_id}/events", response_class=EventSourceResponse, responses=responses(401, 404, 422, 503)
)
async def events(
    service: CurrentService, run: Annotated[Document, Depends(_follower)]
) -> AsyncIterator[Any]:
    """Stream the run's state and phases, at once and at each change, until it has ended."""
    began = time.monotonic()
    yield run
    while run["state"] in OPEN_STATES and time.monotonic() - began < _MOST_SECONDS:
        await asyncio.sleep(_POLL_SECONDS)
        try:
            latest = await _read(service, run["run_id"])
        except (DatabaseUnavailableError, HTTPException):  # or the run was pruned
            continue
        if latest != run:
            run = latest
            yield run


async def _read(service: Service, run_id: str) -> Document:
    """Return what events show of a run; read once for all clients of the same run."""
    read_at, reading = service.readings.get(run_id, (0.0, None))
    if reading is None or time.monotonic() - read_at > _POLL_SECONDS / 2:
        reading = asyncio.ensure_future(run_in_threadpool(_read_ledger, service, run_id))
        service.readings[run_id] = time.monotonic(), reading
    return await asyncio.shield(reading)


def _read_ledger(service: Service, run_id: str) -> Document:
    run = document_of(service, run_id)
    return {
        **{key: run.get(key) for key in ("run_id", "kind", "state", "phase", "exit_code", "error")},
        "phases": [{"name": p["name"], "seconds": p["seconds"]} for p in run["phases"]],
    }
