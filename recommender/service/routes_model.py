"""``POST /model/rollback``: the previous generation is published again."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException, Response

from recommender.core.errors import NoPreviousError
from recommender.publishing.rollback import previous_generation
from recommender.service.dependencies import CurrentService, require_key, require_same_origin
from recommender.service.problems import responses
from recommender.service.routes_training import TrainingStarted

router = APIRouter()


@router.post(
    "/model/rollback",
    status_code=202,
    responses=responses(401, 403, 404, 409, 503),
    dependencies=[Depends(require_same_origin), Depends(require_key)],
)
def rollback(service: CurrentService, response: Response) -> TrainingStarted:
    """Publish what the latest run has replaced.

    404 if there is nothing, 409 if it is incomplete or a training is in progress.
    """
    try:
        previous_generation(service.db)
    except NoPreviousError as error:
        raise HTTPException(409 if error.incomplete else 404, str(error)) from None
    run_id = service.trainer.start("api", rollback=True)
    response.headers["Location"] = f"/runs/{run_id}"
    return TrainingStarted(message="Rollback started", run_id=run_id)
