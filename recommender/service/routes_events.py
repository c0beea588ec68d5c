"""``GET /runs/{run_id}/events``: a run's phases and its end, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.mongo import Document, mongo_errors
from recommender.runs.ledger import OPEN_STATES, Ledger
from recommender.service.dependencies import CurrentService, Service, require_key
from recommender.service.problems import responses

_POLL_SECONDS = 1.0
_SILENT_SECONDS = 15.0  # after which a client gets a sign of life
_MOST_CLIENTS = 50
_MOST_SECONDS = 900.0  # of one client; browsers come again

router = APIRouter(dependencies=[Depends(require_key)])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "one event a change"}
}


@router.get(
    "/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses=responses(401, 404, 422, 503) | _STREAM,
)
async def events(
    service: CurrentService,
    run_id: Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{1,64}$", description="a run's id")],
) -> StreamingResponse:
    """Stream the run's state and phases, at once and at each change, until it has ended."""
    if len(service.followers) >= _MOST_CLIENTS:
        raise HTTPException(503, "too many clients follow runs; poll GET /runs/{run_id} instead")
    run = await _read(service, run_id)
    if run is None:
        raise HTTPException(404, f"no run {run_id} is in the ledger; GET /runs lists the latest")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    lines = _follow(service, run)
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


async def _follow(service: Service, run: Document) -> AsyncIterator[str]:
    """Yield an event for each change of a run; a comment where there is none for long."""
    if len(service.followers) >= _MOST_CLIENTS:  # of clients that came at once
        return
    me = object()
    service.followers.add(me)
    began = sent_at = time.monotonic()
    try:
        yield _event(run)
        while run["state"] in OPEN_STATES and time.monotonic() - began < _MOST_SECONDS:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                latest = await _read(service, run["run_id"])
            except DatabaseUnavailableError:
                latest = run
            if latest and latest != run:
                run, sent_at = latest, time.monotonic()
                yield _event(run)
            elif time.monotonic() - sent_at > _SILENT_SECONDS:
                sent_at = time.monotonic()
                yield ": no change\n\n"
    finally:
        service.followers.discard(me)


def _event(run: Document) -> str:
    return f"data: {json.dumps(run)}\n\n"


async def _read(service: Service, run_id: str) -> Document | None:
    """Return what events show of a run, None for an unknown one; read once for all clients."""
    read_at, reading = service.readings.get(run_id, (0.0, None))
    if reading is None or time.monotonic() - read_at > _POLL_SECONDS / 2:
        reading = asyncio.ensure_future(run_in_threadpool(_read_ledger, service, run_id))
        service.readings.clear()
        service.readings[run_id] = time.monotonic(), reading
    return await asyncio.shield(reading)


@mongo_errors("reading the ledger")
def _read_ledger(service: Service, run_id: str) -> Document | None:
    run = Ledger(service.db).get(run_id)
    return run and {
        **{key: run.get(key) for key in ("run_id", "state", "phase", "exit_code", "error")},
        "phases": [{"name": p["name"], "seconds": p["seconds"]} for p in run["phases"]],
    }
