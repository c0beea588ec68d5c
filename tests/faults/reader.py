"""A reader that polls what is published all the time, and remembers what no reader may see."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from recommender.core.mongo import Document
from tests.waiting import until

# The backend's own document, which every training is to leave where it is.
GUEST: Document = {"user_id": "guest of the backend", "recommendations": [{"gmap_id": "here"}]}

_READ_AGAIN_SECONDS = 0.25
_DROPPED_WHILE_READ = 175
_PARTS = ("train_columns", "kmeans_centroids", "kmeans_clusters")


class Reader:
    """Polls Recommendations, Clusters and Metadata from a thread, by a client of its own.

    Attributes
    ----------
    polls
        How many times it has read all three.
    mixed
        How many times Clusters and Metadata differed, and differed still when read again, as the
        documentation says.
    wrong
        What it saw that no reader may see, each with how many times.
    """

    def __init__(self, uri: str, db: str, users: int) -> None:
        self.polls = 0
        self.mixed = 0
        self.wrong: Counter[str] = Counter()
        self._users = users
        self._client: MongoClient[Document] = MongoClient(
            uri, appname="reader", serverSelectionTimeoutMS=500
        )
        self._db = self._client[db]
        self._may_be_cut_off = False
        self._reading = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader")

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._client.close()

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Let the server be away for the block, and until it has answered again."""
        self._may_be_cut_off = True
        yield
        self.catch_up()
        self._may_be_cut_off = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not read during the block."""
        with self._reading:
            yield

    @contextmanager
    def more_users(self, count: int) -> Iterator[None]:
        """Do not read during the block, and expect ``count`` more users after it."""
        with self.paused():
            yield
            self._users += count

    def catch_up(self) -> None:
        """Return when all has been read that is there now."""
        polls = self.polls
        until(lambda: self.polls > polls + 1)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._reading:
                    self._poll()
                self.polls += 1
            except ConnectionFailure as error:
                if not self._may_be_cut_off:
                    self.wrong[f"no answer: {type(error).__name__}"] += 1
            except PyMongoError as error:
                self.wrong[f"{type(error).__name__}: {error}"] += 1
            self._stopped.wait(0.002)

    def _poll(self) -> None:
        self._note(wrong_recommendations(self._read("Recommendations"), self._users))
        clusters, metadata = self._read_pair()
        if runs_of(clusters) != runs_of(metadata):
            self._stopped.wait(_READ_AGAIN_SECONDS)
            clusters, metadata = self._read_pair()
            self.mixed += runs_of(clusters) != runs_of(metadata)
        self._note(wrong_clusters(clusters))
        self._note(wrong_metadata(metadata))

    def _read_pair(self) -> tuple[list[Document], list[Document]]:
        return self._read("Clusters"), self._read("Metadata")

    def _read(self, name: str) -> list[Document]:
        """Read a collection; one that is replaced while it is read is read again."""
        while True:
            try:
                return list(self._db[name].find(batch_size=10_000))
            except OperationFailure as error:
                if error.code != _DROPPED_WHILE_READ:
                    raise

    def _note(self, wrong: str | None) -> None:
        if wrong:
            self.wrong[wrong] += 1


def runs_of(documents: list[Document]) -> set[Any]:
    """Return the runs that wrote the documents; what is not a training's is left out."""
    return {document["run_id"] for document in documents if "run_id" in document}


def wrong_recommendations(documents: list[Document], users: int) -> str | None:
    """Return what is wrong with a state of Recommendations, if anything is."""
    trained = [d for d in documents if "run_id" in d]
    if len(trained) != users:
        return f"Recommendations of {len(trained)} users where there are {users}"
    if len({str(d["user_id"]) for d in documents}) != len(documents):
        return "two Recommendations of one user"
    if GUEST["user_id"] not in {d["user_id"] for d in documents}:
        return "the backend's own document is gone from Recommendations"
    if any(not d["recommendations"] for d in documents):
        return "a user without recommendations"
    return _of_one_run("Recommendations", documents)


def wrong_clusters(documents: list[Document]) -> str | None:
    """Return what is wrong with a state of Clusters, if anything is."""
    ids = sorted(document["cluster_id"] for document in documents)
    if not ids or ids != list(range(len(ids))):
        return f"Clusters with the ids {ids}"
    return _of_one_run("Clusters", documents)


def wrong_metadata(documents: list[Document]) -> str | None:
    """Return what is wrong with a state of Metadata, if anything is."""
    parts = {document["_id"]: document for document in documents}
    missing = [name for name in _PARTS if name not in parts]
    if missing:
        return f"Metadata without {', '.join(missing)}"
    columns, centroids, figures = (parts[name] for name in _PARTS)
    shape = {len(centroid) for centroid in centroids["centroids"]}
    if shape != {len(columns["columns"])} or len(figures["sizes"]) != len(centroids["centroids"]):
        return "Metadata whose parts differ in size"
    return _of_one_run("Metadata", documents)


def _of_one_run(name: str, documents: list[Document]) -> str | None:
    runs = runs_of(documents)
    return None if len(runs) == 1 else f"{name} of the runs {sorted(map(str, runs))}"
