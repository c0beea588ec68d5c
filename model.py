"""The API and the schedule: starts trainings, every few hours and on demand, and tells of them.

Run it with ``python model.py`` or ``uvicorn model:app``.
"""

from __future__ import annotations

import datetime
import hmac
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pymongo
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from recommender.bodies import UnreadBodies
from recommender.child import Trainer
from recommender.clock import TrainingClock
from recommender.data.one_user import given_rating, ratings_given
from recommender.errors import DataError
from recommender.factors import LiveFactors
from recommender.java import find_java
from recommender.ledger import STATES, Ledger
from recommender.mongo import (
    TIMEOUT_SECONDS,
    Document,
    MongoDatabase,
    connect,
    database,
    mongo_errors,
)
from recommender.ports import check_port_is_free
from recommender.problems import handle_errors, responses
from recommender.schedule import Schedule
from recommender.scripts import (
    Cancelled,
    configure_logging,
    ended_in_one_line,
    run_script,
    script_parser,
)
from recommender.settings import Settings, load_settings

_SECONDS_FOR_OPEN_REQUESTS = 1

RunId = Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{1,64}$", description="a run's id")]


@dataclass(frozen=True)
class Service:
    """What the lifespan owns and the routes use."""

    settings: Settings
    db: MongoDatabase
    trainer: Trainer
    clock: TrainingClock
    factors: LiveFactors


class TrainingStarted(BaseModel):
    """The answer to a training that was started."""

    message: str
    run_id: str


class SkippedSlot(BaseModel):
    """A slot in which no training was started."""

    at: datetime.datetime
    run_id: str | None = Field(description="the training that was in progress")


class NextTraining(BaseModel):
    """When the next scheduled training is due."""

    time_left: str
    seconds_left: float
    next_training_at: datetime.datetime
    interval_hours: float
    skipped: int = Field(description="slots so far in which another training was in progress")
    last_skipped: SkippedSlot | None = Field(description="the latest of them")


class Health(BaseModel):
    """The state of the service."""

    status: Literal["alive", "ready"]


class Run(BaseModel):
    """A run as the ledger has it; more fields follow these as it goes on."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    state: str = Field(description=f"one of {', '.join(STATES)}")
    trigger: str
    forced: bool = Field(False, description="whether the gate was off: GATE, --force or ?force")
    phase: str | None = None
    exit_code: int | None = None
    error: str | None = None


class Runs(BaseModel):
    """The latest runs."""

    runs: list[Run]


class Recommendation(BaseModel):
    """A restaurant, and the rated restaurants that add most to its score."""

    gmap_id: str | int
    score: float
    because: list[str | int]


class Recommendations(BaseModel):
    """What is recommended to somebody by the factors of a training."""

    run_id: str
    recommendations: list[Recommendation]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Own the client, the schedule and the training in progress from start to stop."""
    settings = load_settings()
    if not logging.root.handlers:
        configure_logging(settings)
    interval = settings.train_interval_hours * 3600
    with connect(settings) as client:
        db = database(client, settings)
        trainer = Trainer(settings, db)
        clock = TrainingClock(
            Schedule(db, interval),
            lambda: trainer.start("schedule"),
            interval,
            trainer.tidy_up,
        )
        app.state.service = Service(settings, db, trainer, clock, LiveFactors(db))
        await run_in_threadpool(clock.start)
        yield
        await run_in_threadpool(clock.stop)
        await run_in_threadpool(trainer.stop)


def service_of(request: Request) -> Service:
    """Return what the lifespan made."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]


def require_key(
    service: TheService,
    header: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    """Refuse a request without the API key, where one is set."""
    if service.settings.api_key is None:
        return
    expected = service.settings.api_key.get_secret_value().encode()
    given = header if header is not None else bearer.credentials if bearer else ""
    # Header bytes arrive decoded as Latin-1, whatever the client meant by them.
    if not hmac.compare_digest(given.encode("latin-1"), expected):
        raise HTTPException(
            401,
            "send the API key as X-API-Key, or as Authorization: Bearer",
            headers={"WWW-Authenticate": "Bearer"},
        )


def create_app() -> FastAPI:
    """Return the application; nothing is connected or started before its lifespan begins."""
    app = FastAPI(
        title="Restaurant Recommender Model Service",
        summary="Trains recommendations and user clusters from the restaurant reviews in MongoDB.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    handle_errors(app)
    app.add_middleware(UnreadBodies)
    keyed: dict[str, Any] = {"dependencies": [Depends(require_key)]}
    app.post("/train", status_code=202, responses=responses(401, 409, 422, 503), **keyed)(train)
    app.get("/next-training")(next_training)
    app.get("/health/live")(live)
    app.get("/health/ready", responses=responses(503))(ready)
    # As load balancers ask; the server leaves the body out.
    app.head("/health/live", include_in_schema=False)(live)
    app.head("/health/ready", include_in_schema=False)(ready)
    app.get("/recommendations", responses=responses(401, 404, 422, 503), **keyed)(recommendations)
    app.get("/runs", responses=responses(401, 422, 503), **keyed)(runs)
    app.get("/runs/{run_id}", responses=responses(401, 404, 422, 503), **keyed)(run)
    return app


def train(
    service: TheService,
    force: Annotated[bool, Query(description="publish what the gate would reject")] = False,
) -> TrainingStarted:
    """Start a training now; 409 names the one in progress."""
    run_id = service.trainer.start("api", force=force)
    return TrainingStarted(message="Training started", run_id=run_id)


def next_training(service: TheService) -> NextTraining:
    """Say how long it is to the next scheduled training."""
    left = service.clock.seconds_left()
    skipped = service.clock.latest.last_skipped
    return NextTraining(
        time_left=f"Time left for next training: {in_words(left)}.",
        seconds_left=round(left, 3),
        next_training_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left),
        interval_hours=service.settings.train_interval_hours,
        skipped=service.clock.latest.skipped,
        last_skipped=SkippedSlot(**skipped) if skipped else None,
    )


def in_words(seconds: float) -> str:
    """Return a duration as ``2 Hours, 59 Minutes, and 58 Seconds``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} Hours, {minutes} Minutes, and {rest} Seconds"


async def live() -> Health:
    """Answer as long as the process does; MongoDB is not asked."""
    return Health(status="alive")


def ready(service: TheService) -> Health:
    """Answer 200 if a training could start: MongoDB answers, Java and WORK_DIR are there."""
    with mongo_errors("answering a ping"), pymongo.timeout(TIMEOUT_SECONDS):
        service.db.command("ping")
    find_java()
    service.settings.make_folder(service.settings.work_dir)
    return Health(status="ready")


def recommendations(
    service: TheService,
    rated: Annotated[
        list[str],
        Query(min_length=1, max_length=1000, description="gmap_id=rating, for each restaurant"),
    ],
) -> Recommendations:
    """Recommend restaurants to anybody, known or not, by what they have rated."""
    factors = service.factors.get()
    if factors is None:
        raise HTTPException(404, "no training has published factors; POST /train first")
    try:
        given = dict(map(given_rating, rated))
        ratings = ratings_given(service.settings, given, factors.position)
    except (DataError, ValueError) as error:
        raise HTTPException(422, f"query.rated: {error}") from None
    found = factors.recommend(ratings, service.settings.als_top_n)
    return Recommendations(
        run_id=factors.run_id,
        recommendations=[
            Recommendation(
                gmap_id=_as_json(entry["gmap_id"]),
                score=entry["score"],
                because=[_as_json(gmap_id) for gmap_id in entry["because"]],
            )
            for entry in found
        ],
    )


def _as_json(gmap_id: Any) -> str | int:
    return gmap_id if isinstance(gmap_id, (str, int)) else str(gmap_id)


def runs(
    service: TheService,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many at most")] = 20,
) -> Runs:
    """List the latest runs, the latest first."""
    with mongo_errors("reading the ledger"):
        return Runs(runs=[Run(**_shown(found)) for found in Ledger(service.db).recent(limit)])


def run(service: TheService, run_id: RunId) -> Run:
    """Show one run."""
    with mongo_errors("reading the ledger"):
        found = Ledger(service.db).get(run_id)
    if found is None:
        raise HTTPException(404, f"no run {run_id} is in the ledger; GET /runs lists the latest")
    return Run(**_shown(found))


def _shown(document: Document) -> Document:
    return {key: value for key, value in document.items() if key != "_id"}


def __getattr__(name: str) -> FastAPI:
    """Make ``app`` when a server such as uvicorn asks for it.

    Settings that cannot be are told here in one line, with their exit code: from the lifespan, the
    server would show a traceback of them.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with ended_in_one_line():
        connect(load_settings()).close()
    globals()["app"] = found = create_app()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it."""
    parser = script_parser("Serve the API and train every TRAIN_INTERVAL_HOURS.")
    parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    check_port_is_free(settings.host, settings.port)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(),
            host=settings.host,
            port=settings.port,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_FOR_OPEN_REQUESTS,
        )
    )
    try:
        server.run()
    except Cancelled:  # uvicorn has shut down in order and passes the signal on
        return 0
    return 0 if server.started else 1


if __name__ == "__main__":
    raise SystemExit(run_script(main))
