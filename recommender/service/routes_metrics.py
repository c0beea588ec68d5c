"""``GET /metrics``: the ledger, the published collections, and the requests to this process."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pymongo
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client import generate_latest as text_of
from prometheus_client.core import GaugeMetricFamily, Metric
from pymongo import DESCENDING
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from recommender.core import mongo_collections as names
from recommender.core.mongo import Document, MongoDatabase
from recommender.runs.ledger import COLLECTION, OPEN_STATES, Ledger, figure_at
from recommender.service.dependencies import CurrentService, require_key
from recommender.service.problems import responses
from recommender.service.schedule import Schedule

_SECONDS = 1.0  # for all queries of a scrape
_CRASHED = 137  # a run that died has recorded no code
_TRAININGS: Document = {"trigger": {"$ne": "tune"}, "kind": {"$nin": ["dry_run", "rollback"]}}

router = APIRouter(dependencies=[Depends(require_key)])


@router.get("/metrics", response_class=Response, responses=responses(401))
async def show_metrics(request: Request, service: CurrentService) -> Response:
    """Return the metrics in Prometheus's text format."""
    # Not in the pool of the other calls, all of which may wait for MongoDB.
    text = await asyncio.to_thread(text_of, service.metrics)
    return Response(text_of(request.app.state.registry) + text, media_type=CONTENT_TYPE_LATEST)


class LedgerMetrics:
    """The metrics of the ledger and of the published collections, read when they are collected.

    While MongoDB does not answer, they are as last read, and ``recommender_mongodb_up`` is 0.
    """

    def __init__(self, db: MongoDatabase, schedule: Schedule) -> None:
        self._db = db
        self._schedule = schedule
        self._last: list[Metric] = []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        up = False
        with suppress(PyMongoError), pymongo.timeout(_SECONDS):
            self._last = [*_of_runs(self._db), *_of_collections(self._db)]
            up = True
        yield _gauge("mongodb_up", "0 if MongoDB did not answer: the rest is as last read.", up)
        yield _gauge("schedule_paused", "1 if the schedule is paused.", self._schedule.paused)
        yield _gauge("schedule_interval_seconds", "0: no schedule.", self._schedule.interval)
        yield _gauge("schedule_skipped", "Scheduled times skipped so far.", self._schedule.skipped)
        yield from self._last


def _of_runs(db: MongoDatabase) -> Iterator[Metric]:
    runs = db[COLLECTION]
    kind = {"$ifNull": ["$kind", "training"]}
    by_kind = {"_id": ["$trigger", "$state", kind], "count": {"$sum": 1}}
    counts = {tuple(each["_id"]): each["count"] for each in runs.aggregate([{"$group": by_kind}])}
    yield _gauge("runs", "Runs in the ledger.", counts, "trigger", "state", "kind")
    open_runs = sum(n for (_, state, _), n in counts.items() if state in OPEN_STATES)
    yield _gauge("training_in_progress", "1 during a training.", open_runs)
    last = _latest(runs, {"state": {"$nin": [*OPEN_STATES, "cancelled"]}})
    code = last.get("exit_code", _CRASHED) if last else None
    yield _gauge("last_run_exit_code", "Exit code of the last run not stopped; 137: it died.", code)
    success = _latest(runs, {"state": "succeeded"})
    at = success["ended_at"].timestamp() if success else None
    yield _gauge("last_success_timestamp_seconds", "End of the latest successful training.", at)
    seconds = {phase["name"]: phase["seconds"] for phase in success.get("phases", ())}
    yield _gauge("phase_seconds", "Seconds of its phases.", seconds, "phase")
    # Not the latest success: a rollback takes one back, and a rejection may come after the lists.
    published = Ledger(db).has_published_lists()
    live = names.run_of(db[names.RECOMMENDATIONS]) if published else None
    als = Ledger(db).get(str(live)) or {}
    of_clusters = Ledger(db).get(str(names.run_of(db[names.CLUSTERS]))) or {}
    warned = [w for w in als.get("warnings", ()) if not w.startswith("clusters: ")]
    warned += [w for w in of_clusters.get("warnings", ()) if w.startswith("clusters: ")]
    yield _gauge("reviews_rejected", "Reviews left out.", als.get("rows_rejected", {}), "reason")
    yield _gauge("warnings", "Warnings of the live lists and clusters.", len(warned))
    yield _gauge("rmse", "RMSE on test ratings.", figure_at(als, "metrics.als.rmse"))
    yield _gauge("ndcg", "NDCG of the lists of test users.", figure_at(als, "metrics.lists.ndcg"))
    yield _gauge("lift", "NDCG less the popular list's.", figure_at(als, "metrics.lists.lift"))
    text = "Reviews since the previous lists, and how many of them those had."
    yield _gauge("hindsight", text, figure_at(als, "metrics.hindsight") or {}, "figure")


def _of_collections(db: MongoDatabase) -> Iterator[Metric]:
    users = db[names.RECOMMENDATIONS].estimated_document_count()
    yield _gauge("users_served", "Documents in Recommendations.", users)
    clusters = db[names.METADATA].find_one({"_id": names.CLUSTERS_ID}, {"sizes": 1}) or {}
    sizes = {str(number): size for number, size in enumerate(clusters.get("sizes", ()))}
    yield _gauge("cluster_users", "Users of a cluster.", sizes, "cluster")


def _latest(runs: Collection[Document], condition: Document) -> Document:
    """Return the latest training that has ended like this; empty if there is none."""
    condition = {**_TRAININGS, **condition}
    return runs.find_one(condition, {"settings": 0}, sort=[("_id", DESCENDING)]) or {}


def _gauge(name: str, text: str, values: Mapping[Any, Any] | float | None, *labels: str) -> Metric:
    """Return a gauge of a number, or of each number by its labels."""
    family = GaugeMetricFamily(f"recommender_{name}", text, labels=labels)
    for key, value in (values if isinstance(values, Mapping) else {(): values}).items():
        if isinstance(value, (int, float)):
            family.add_metric([key] if isinstance(key, str) else [*map(str, key)], value)
    return family
