"""``POST /train`` and ``GET /next-training``: trainings on demand, and the schedule."""

from __future__ import annotations

import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from recommender.service.dependencies import CurrentService, require_key, require_same_origin
from recommender.service.problems import responses

router = APIRouter()


class TrainingStarted(BaseModel):
    """A training that was started."""

    message: str
    run_id: str


class SkippedSlot(BaseModel):
    """A scheduled time at which no training was started."""

    at: datetime.datetime
    run_id: str | None = Field(description="the training that was in progress")


class NextTraining(BaseModel):
    """When the next scheduled training is due."""

    time_left: str
    seconds_left: float
    next_training_at: datetime.datetime
    interval_hours: float
    skipped: int = Field(description="scheduled trainings skipped so far")
    last_skipped: SkippedSlot | None = Field(description="the latest of them")


@router.post(
    "/train",
    status_code=202,
    responses=responses(401, 403, 409, 422, 503),
    dependencies=[Depends(require_same_origin), Depends(require_key)],
)
def train(
    service: CurrentService,
    response: Response,
    force: Annotated[bool, Query(description="publish what the gate would reject")] = False,
) -> TrainingStarted:
    """Start a training now; 409 names the one in progress."""
    run_id = service.trainer.start("api", force=force)
    response.headers["Location"] = f"/runs/{run_id}"
    return TrainingStarted(message="Training started", run_id=run_id)


@router.get("/next-training")
async def next_training(service: CurrentService) -> NextTraining:
    """Return the time left to the next scheduled training."""
    schedule = service.schedule
    left = schedule.seconds_left()
    return NextTraining(
        time_left=f"Time left for next training: {in_words(left)}.",
        seconds_left=round(left, 3),
        next_training_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left),
        interval_hours=service.settings.schedule.interval_hours,
        skipped=schedule.skipped,
        last_skipped=SkippedSlot(**schedule.last_skipped) if schedule.last_skipped else None,
    )


def in_words(seconds: float) -> str:
    """Return a duration as ``2 Hours, 59 Minutes, and 58 Seconds``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} Hours, {minutes} Minutes, and {rest} Seconds"
