"""``GET`` and ``HEAD`` of ``/health/live`` and ``/health/ready``."""

from typing import Literal

import pymongo
from fastapi import APIRouter
from pydantic import BaseModel

from recommender.core.mongo import mongo_errors
from recommender.service.dependencies import CurrentService
from recommender.service.problems import responses
from recommender.spark.java import find_java

router = APIRouter(prefix="/health")

_PING_SECONDS = 2.0  # less than what probes wait


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
def ready(service: CurrentService) -> Health:
    """Answer 200 if a training could start: MongoDB answers, Java and WORK_DIR are available."""
    with mongo_errors("answering a ping"), pymongo.timeout(_PING_SECONDS):
        service.db.command("ping")
    find_java()
    service.settings.make_folder(service.settings.work_dir)
    return Health(status="ready")
