"""``GET`` and ``HEAD`` of ``/health/live`` and ``/health/ready``."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from recommender.core.mongo import quick_read
from recommender.service.dependencies import CurrentService, Service
from recommender.service.problems import responses
from recommender.spark.java import find_java

router = APIRouter(prefix="/health")


class Health(BaseModel):
    """The state of the service."""

    status: Literal["alive", "ready"]


@router.head("/live", include_in_schema=False)
@router.get("/live")
async def live() -> Health:
    """Answer 200 while the process runs; MongoDB is not asked."""
    return Health(status="alive")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses=responses(503))
async def ready(service: CurrentService) -> Health:
    """Answer 200 if a training could start: MongoDB answers, Java and WORK_DIR are available."""
    await asyncio.to_thread(_check, service)  # not in the pool, where all may wait for MongoDB
    return Health(status="ready")


def _check(service: Service) -> None:
    with quick_read("answering a ping"):
        service.db.command("ping")
    find_java()
    service.settings.make_folder(service.settings.work_dir)
