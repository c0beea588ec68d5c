"""``GET /runs/{run_id}/events``: a run's phases and its end, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path
from fastapi.responses import StreamingResponse

from recommender.core.mongo import Document
from recommender.service.dependencies import CurrentService, require_key
from recommender.service.problems import responses

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
    if service.events.is_full:
        raise HTTPException(503, "too many clients follow runs; poll GET /runs/{run_id} instead")
    run = await service.events.read(run_id)
    if run is None:
        raise HTTPException(404, f"no run {run_id} is in the ledger; GET /runs lists the latest")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    lines = _lines(service.events.follow(run))
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


async def _lines(changes: AsyncIterator[Document | None]) -> AsyncIterator[str]:
    async for run in changes:
        yield f"data: {json.dumps(run)}\n\n" if run else ": alive\n\n"
