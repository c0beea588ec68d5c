"""The resources that the routes share: opened at the start, injected into each route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from recommender.als.published_factors import LiveFactors
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.service.launcher import Trainer
from recommender.service.schedule import Schedule


@dataclass(frozen=True)
class Service:
    """The resources of a running service."""

    settings: Settings
    db: MongoDatabase
    trainer: Trainer
    schedule: Schedule
    factors: LiveFactors


# A coroutine: FastAPI runs plain functions in its thread pool, where they wait for a free thread.
async def _current(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(_current)]
