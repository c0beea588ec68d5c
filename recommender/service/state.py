"""What the routes share: opened by the application's lifespan, injected into each route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from recommender.als.published_factors import LiveFactors
from recommender.child import Trainer
from recommender.clock import TrainingClock
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings


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
