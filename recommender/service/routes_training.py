"""Trainings and rollbacks on demand, and the schedule."""

import datetime
import math
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from recommender.core.errors import NoPreviousError
from recommender.core.mongo import quick_read
from recommender.publishing.rollback import previous_generation
from recommender.service.dependencies import (
    CurrentService,
    Service,
    require_key,
    require_same_origin,
)
from recommender.service.problems import responses

_CHANGES = [Depends(require_same_origin), Depends(require_key)]
_STARTS: dict[str, Any] = {"status_code": 202, "dependencies": _CHANGES}

router = APIRouter()


class TrainingStarted(BaseModel):
    """A training that was started."""

    message: str = Field(examples=["Training started"])
    run_id: str = Field(examples=["20261128T191502690Z-86f4abfa"])


class SkippedSlot(BaseModel):
    """A scheduled time at which no training was started."""

    at: datetime.datetime
    run_id: str | None = Field(description="the training that was in progress")


class Training(BaseModel):
    """A training in progress."""

    run_id: str
    phase: str | None = Field(description="null until the first phase begins")
    started_at: datetime.datetime


class NextTraining(BaseModel):
    """When the next scheduled training is due, and the training in progress."""

    time_left: str = Field(
        examples=["Time left for next training: 2 Hours, 59 Minutes, and 58 Seconds."]
    )
    seconds_left: float | None = Field(description="null without a schedule")
    next_training_at: datetime.datetime | None = Field(description="null without a schedule")
    interval_hours: float = Field(description="0: no schedule")
    paused: bool = Field(description="whether scheduled times pass without a training")
    training: Training | None = Field(description="as read some seconds ago")
    skipped: int = Field(description="scheduled trainings skipped so far")
    last_skipped: SkippedSlot | None = Field(description="the latest of them")


class WantedSchedule(BaseModel):
    """What the schedule should be."""

    model_config = ConfigDict(extra="forbid")

    paused: StrictBool


@router.post("/train", responses=responses(401, 403, 409, 422, 503), **_STARTS)
def train(
    service: CurrentService,
    response: Response,
    force: Annotated[bool, Query(description="as the option --force")] = False,
) -> TrainingStarted:
    """Start a training now; 409 names the one in progress."""
    run_id = service.trainer.start("api", force=force)
    response.headers["Location"] = f"/runs/{run_id}"
    return TrainingStarted(message="Training started", run_id=run_id)


@router.post("/model/rollback", responses=responses(401, 403, 404, 409, 503), **_STARTS)
def rollback(service: CurrentService, response: Response) -> TrainingStarted:
    """Publish what the latest run has replaced.

    404 if there is nothing, 409 if it is incomplete or a training is in progress.
    """
    try:
        with quick_read("reading the previous generation", 30):  # it counts millions of documents
            previous_generation(service.db)
    except NoPreviousError as error:
        raise HTTPException(409 if error.incomplete else 404, str(error)) from None
    run_id = service.trainer.start("api", rollback=True)
    response.headers["Location"] = f"/runs/{run_id}"
    return TrainingStarted(message="Rollback started", run_id=run_id)


@router.get("/next-training")
async def next_training(request: Request) -> NextTraining:
    """Return the time left to the next scheduled training."""
    service: Service = request.app.state.service  # CurrentService costs 6 % of the call
    schedule, training = service.schedule, service.progress.training
    left, at = schedule.seconds_left(), None
    words = "No training is scheduled, as TRAIN_INTERVAL_HOURS is 0."
    if left < math.inf:
        words = f"Time left for next training: {in_words(left)}."
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left)
    return NextTraining(
        time_left=words,
        seconds_left=round(left, 3) if at else None,
        next_training_at=at,
        interval_hours=service.settings.schedule.interval_hours,
        paused=schedule.paused,
        training=Training(**training) if training else None,
        skipped=schedule.skipped,
        last_skipped=SkippedSlot(**schedule.last_skipped) if schedule.last_skipped else None,
    )


@router.put("/schedule", responses=responses(400, 401, 403, 422, 503), dependencies=_CHANGES)
async def put_schedule(
    request: Request, service: CurrentService, wanted: WantedSchedule
) -> NextTraining:
    """Pause or resume the schedule; ``POST /train`` starts trainings all the same."""
    await run_in_threadpool(service.schedule.set_paused, wanted.paused)
    return await next_training(request)


def in_words(seconds: float) -> str:
    """Return a duration as ``2 Hours, 59 Minutes, and 58 Seconds``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} Hours, {minutes} Minutes, and {rest} Seconds"
