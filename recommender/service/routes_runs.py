"""``/runs``: the ledger of trainings; a run in progress can be cancelled."""

from __future__ import annotations

import os
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from recommender.core.logs import redact, secrets_of
from recommender.core.mongo import Document, mongo_errors
from recommender.runs.ledger import STATES, Ledger, State, Trigger
from recommender.service.dependencies import CurrentService, require_key, require_same_origin
from recommender.service.problems import responses

router = APIRouter(prefix="/runs", dependencies=[Depends(require_key)])


RunId = Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{1,64}$", description="a run's id")]

_LOG_BYTES = 1_000_000  # read at most


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
@mongo_errors("reading the ledger")
def runs(
    service: CurrentService,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many at most")] = 20,
    state: Annotated[State | None, Query(description="only runs in this state")] = None,
    trigger: Annotated[Trigger | None, Query(description="only runs started so")] = None,
    before: Annotated[
        str | None, Query(pattern=r"^[0-9A-Za-z-]{1,64}$", description="only older runs")
    ] = None,
    summary: Annotated[bool, Query(description="without settings, versions and metrics")] = False,
) -> Runs:
    """List the latest runs, newest first."""
    without = ("settings", "versions", "metrics", "chosen", "gate") if summary else ()
    latest = Ledger(service.db).recent(limit, before, *without, state=state, trigger=trigger)
    return Runs(runs=[_run(document) for document in latest])


@router.get("/{run_id}", responses=responses(401, 404, 422, 503))
@mongo_errors("reading the ledger")
def run(service: CurrentService, run_id: RunId) -> Run:
    """Show one run."""
    document = Ledger(service.db).get(run_id)
    if document is None:
        raise HTTPException(404, f"no run {run_id} is in the ledger; GET /runs lists the latest")
    return _run(document)


@router.post(
    "/{run_id}/cancel",
    status_code=202,
    responses=responses(401, 403, 404, 409, 422, 503),
    dependencies=[Depends(require_same_origin)],
)
@mongo_errors("cancelling the run")
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
    path = service.settings.log_dir / f"{run_id}.log"
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            text = file.read(_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        raise HTTPException(404, f"the log of run {run_id} is not on this host") from None
    lines = text.rstrip("\n").split("\n")[-tail:]
    return redact("".join(f"{line}\n" for line in lines), secrets_of(service.settings))


def _run(document: Document) -> Run:
    return Run(**{key: value for key, value in document.items() if key != "_id"})
