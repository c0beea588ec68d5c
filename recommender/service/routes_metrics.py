"""``GET /metrics``: the ledger, read at each scrape, and the requests to this process."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client import generate_latest as text_of
from prometheus_fastapi_instrumentator import Instrumentator, metrics

from recommender.service.dependencies import CurrentService, require_key
from recommender.service.problems import responses

_METHODS = {"GET", "HEAD", "POST", "PUT"}

router = APIRouter(dependencies=[Depends(require_key)])


def count_requests(app: FastAPI) -> None:
    """Count and time the application's requests by route, method and status."""
    registry = app.state.registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    observe: Any = metrics.latency(registry=registry)

    def observe_known(info: metrics.Info) -> None:
        if info.method in _METHODS:  # a client may send any word
            observe(info)

    instrumentator = Instrumentator(should_group_status_codes=False, registry=registry)
    instrumentator.add(observe_known).instrument(app)


@router.get("/metrics", response_class=Response, responses=responses(401))
async def show_metrics(request: Request, service: CurrentService) -> Response:
    """Return the metrics in Prometheus's text format."""
    # Not in the pool of the other calls, all of which may wait for MongoDB.
    text = await asyncio.to_thread(text_of, service.metrics)
    return Response(text_of(request.app.state.registry) + text, media_type=CONTENT_TYPE_LATEST)
