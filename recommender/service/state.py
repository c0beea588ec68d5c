"""What the routes share: opened by the application's lifespan, injected into each route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from recommender.als.published_factors import LiveFactors
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.service.launcher import Trainer
from recommender.service.scheduler import TrainingClock


@dataclass(frozen=True)
class Service:
    """The resources of a running service."""

    settings: Settings
    db: MongoDatabase
    trainer: Trainer
    clock: TrainingClock
    factors: LiveFactors


# A coroutine: FastAPI runs plain functions in its thread pool, where they wait for a free thread.
async def _current(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(_current)]
