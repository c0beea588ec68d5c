"""The service: an HTTP API, and trainings on a schedule and on demand.

Run it with ``python model.py``, or ``uvicorn model:app --timeout-graceful-shutdown 1``.
"""

import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, ProcessCollector

from recommender.core.errors import RecommenderError
from recommender.core.logs import print_error
from recommender.core.mongo import connect, database
from recommender.core.ports import check_port_is_free
from recommender.core.script import run_script, script_parser
from recommender.core.settings import load_settings
from recommender.core.signals import Cancelled, call_after
from recommender.service import (
    pages,
    routes_catalog,
    routes_health,
    routes_metrics,
    routes_pages,
    routes_recommendations,
    routes_runs,
    routes_training,
)
from recommender.service.catalog import Catalog
from recommender.service.dependencies import Service, warn_if_exposed
from recommender.service.launcher import Trainer
from recommender.service.limits import BACKLOG, LimitedBody, LimitedProtocol
from recommender.service.logs import configure_service_logging
from recommender.service.problems import handle_errors
from recommender.service.progress import Progress
from recommender.service.requests import ObservedRequests
from recommender.service.schedule import Schedule
from recommender.service.training_clock import TrainingClock


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Own the MongoDB client, the schedule and the training in progress from start to stop."""
    try:
        settings = load_settings()
        client = connect(settings.mongo)
    except RecommenderError as error:
        print_error(str(error))
        os._exit(error.exit_code)  # uvicorn would log a traceback and exit with its own code
    if not logging.root.handlers:  # started by uvicorn, whose loggers have handlers of their own
        configure_service_logging(settings)
        logging.getLogger("uvicorn").handlers.clear()
        logging.getLogger("uvicorn").propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the application logs its requests
    with client:
        db = database(client, settings.mongo)
        trainer = Trainer(settings, db)
        schedule = Schedule(db, settings.schedule.interval_hours * 3600)
        clock = TrainingClock(schedule, trainer.start, trainer.tidy_up)
        progress = Progress(db)
        readers = Catalog(db, settings), routes_metrics.LedgerMetrics(db, schedule)
        app.state.service = Service(settings, db, trainer, schedule, progress, *readers)
        await run_in_threadpool(clock.start)
        gc.freeze()  # else a full collection of the objects so far stops all answers for 50 ms
        with progress:
            yield
            # The process is ours to end if a server has its SIGTERM, and not in tests.
            if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", 0), uvicorn.Server):
                call_after(settings.schedule.stop_grace_seconds + 3, os._exit, 0)
        await run_in_threadpool(clock.stop)
        await run_in_threadpool(trainer.stop)


def create_app() -> FastAPI:
    """Return the application; nothing is read, connected or started before its lifespan begins."""
    app = FastAPIOffline(
        redoc_url=None,
        title="Restaurant Recommender Model Service",
        version="1.0.0",
        summary="Trains recommendations and user clusters from the restaurant reviews in MongoDB.",
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    handle_errors(app)
    app.add_middleware(LimitedBody)
    registry = app.state.registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app.add_middleware(ObservedRequests, registry=registry)
    api = (routes_training, routes_runs, routes_recommendations, routes_catalog, routes_health)
    for routes in (*api, routes_metrics, routes_pages):
        app.include_router(routes.router, tags=[routes.__name__.rpartition("_")[2]])
    app.mount("/static", StaticFiles(directory=pages.FOLDER / "static"))
    return app


app = create_app()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it."""
    parser = script_parser("Serve the API and train every TRAIN_INTERVAL_HOURS.", 69, json=False)
    parser.add_argument("--json", action="store_true", help="log JSON lines on a terminal, too")
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_service_logging(settings, as_json=arguments.json)
    connect(settings.mongo).close()  # refuse a bad MONGO_URI before the server starts
    if settings.api.key is None:
        warn_if_exposed(settings.api.host, settings.api.port)
    check_port_is_free(settings.api.host, settings.api.port)
    config = uvicorn.Config(
        app,
        host=settings.api.host,
        port=settings.api.port,
        http=LimitedProtocol,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,  # second for open requests
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except Cancelled:  # uvicorn has shut down in order and passes the signal on
        return 0
    return 0 if server.started else 1


if __name__ == "__main__":
    raise SystemExit(run_script(main))
