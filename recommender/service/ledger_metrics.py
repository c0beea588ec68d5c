"""Metrics of the ledger and of the published collections for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pymongo
from prometheus_client.core import GaugeMetricFamily, Metric
from pymongo import DESCENDING
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import CLUSTERS_ID, METADATA, RECOMMENDATIONS
from recommender.runs.ledger import COLLECTION, OPEN_STATES
from recommender.service.schedule import Schedule

_SECONDS = 1.0  # for all queries of a scrape
_CRASHED = 137  # a run that died has recorded no code
_TRAININGS: Document = {
    "trigger": {"$ne": "tune"},
    "kind": {"$nin": ["dry_run", "rollback"]},
}


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
        up = True
        try:
            with pymongo.timeout(_SECONDS):
                self._last = [*_of_runs(self._db[COLLECTION]), *_of_collections(self._db)]
        except PyMongoError:
            up = False
        yield _gauge("mongodb_up", "0 if MongoDB did not answer: the rest is as last read.", up)
        yield _gauge("schedule_paused", "1 if the schedule is paused.", self._schedule.paused)
        yield _gauge("schedule_interval_seconds", "0: no schedule.", self._schedule.interval)
        yield _gauge("schedule_skipped", "Scheduled times skipped so far.", self._schedule.skipped)
        yield from self._last


def _of_runs(runs: Collection[Document]) -> Iterator[Metric]:
    by_kind = {"_id": ["$trigger", "$state"], "count": {"$sum": 1}}
    counts = {tuple(each["_id"]): each["count"] for each in runs.aggregate([{"$group": by_kind}])}
    yield _gauges("runs", "Runs in the ledger.", counts, "trigger", "state")
    open_runs = sum(n for (_, state), n in counts.items() if state in OPEN_STATES)
    yield _gauge("training_in_progress", "1 during a training.", open_runs)
    last = _latest(runs, {"state": {"$nin": OPEN_STATES}})
    code = last.get("exit_code", _CRASHED) if last else None
    yield _gauge("last_run_exit_code", "Exit code of the latest training; 137: it died.", code)
    success = _latest(runs, {"state": "succeeded"})
    at = success["ended_at"].timestamp() if success else None
    yield _gauge("last_success_timestamp_seconds", "End of the latest successful training.", at)
    seconds = {phase["name"]: phase["seconds"] for phase in success.get("phases", ())}
    yield _gauges("phase_seconds", "Seconds of its phases.", seconds, "phase")
    # A clustering alone has no figures of the lists.
    als = _latest(runs, {"state": "succeeded", "metrics.lists": {"$exists": True}})
    rejected = als.get("rows_rejected", {})
    yield _gauges("reviews_rejected", "Reviews left out, by reason.", rejected, "reason")
    yield _gauge(
        "warnings", "Warnings of the latest published lists.", len(als.get("warnings", ()))
    )
    figures = als.get("metrics", {})
    lists = figures.get("lists", {})
    ndcg, popular = lists.get("ndcg"), (lists.get("popular") or {}).get("ndcg")
    lift = None if ndcg is None or popular is None else ndcg - popular
    yield _gauge("rmse", "RMSE on test ratings.", figures.get("als", {}).get("rmse"))
    yield _gauge("ndcg", "NDCG of the lists of test users.", ndcg)
    yield _gauge("lift", "NDCG less that of the popular list.", lift)
    hindsight = figures.get("hindsight") or {}
    yield _gauges("hindsight", "Later reviews that the live lists had.", hindsight, "figure")


def _of_collections(db: MongoDatabase) -> Iterator[Metric]:
    users = db[RECOMMENDATIONS].estimated_document_count()
    yield _gauge("users_served", "Documents in Recommendations.", users)
    clusters = db[METADATA].find_one({"_id": CLUSTERS_ID}, {"sizes": 1}) or {}
    sizes = {str(number): size for number, size in enumerate(clusters.get("sizes", ()))}
    yield _gauges("cluster_users", "Users of a cluster.", sizes, "cluster")


def _latest(runs: Collection[Document], condition: Document) -> Document:
    """Return the latest training that has ended like this; empty if there is none."""
    condition = {**_TRAININGS, **condition}
    return runs.find_one(condition, {"settings": 0}, sort=[("_id", DESCENDING)]) or {}


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return _gauges(name, text, {(): value})


def _gauges(name: str, text: str, values: Mapping[Any, Any], *labels: str) -> Metric:
    """Return a gauge for each value that is a number, by its labels."""
    family = GaugeMetricFamily(f"recommender_{name}", text, labels=labels)
    for key, value in values.items():
        if isinstance(value, (int, float)):
            family.add_metric([key] if isinstance(key, str) else [*map(str, key)], value)
    return family
