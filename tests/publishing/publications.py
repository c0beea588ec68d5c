"""Publications as trainings make them, for the tests of publishing and of the switch."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pymongo.client_session import ClientSession
from pymongo.errors import (
    OperationFailure,
)

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import (
    CENTROIDS_ID,
    CLUSTERS,
    CLUSTERS_ID,
    COLUMNS_ID,
    METADATA,
    RECOMMENDATIONS,
)
from recommender.publishing.publish import publish, publish_clusters
from recommender.publishing.staging import staged
from recommender.runs.lease import COLLECTION as STATE
from recommender.runs.lease import LEASE_ID, Lease
from recommender.runs.switch import PREVIOUS

TRAINED_USERS = 500


def recommendations(run_id: str, count: int = TRAINED_USERS) -> list[Document]:
    return [{"user_id": f"u{i}", "run_id": run_id, "recommendations": []} for i in range(count)]


class HookedLease(Lease):
    """The lease of a run, taken from any other; calls a function before it is extended."""

    def __init__(self, db: MongoDatabase, run_id: str, before: Callable[[], None]) -> None:
        super().__init__(db, 60)
        db[STATE].update_one({"_id": LEASE_ID}, {"$set": {"run_id": None}})
        self.acquire(run_id)
        self._before = before

    def renew(self) -> None:
        self._before()
        super().renew()

    def begin_switch(self, switch: Document, session: ClientSession | None = None) -> None:
        self._before()
        super().begin_switch(switch, session)


def switch_of(
    targets: dict[str, str], kept: dict[str, str] | None = None, position: Document | None = None
) -> Document:
    """Return the note of a switch that renames stages over their targets."""
    stages = [{"stage": stage, "target": target} for stage, target in targets.items()]
    return {"stages": stages, "kept": kept or {}, "position": position}


def nothing() -> None:
    pass


def train(
    db: MongoDatabase,
    run_id: str,
    documents: list[Document] | None = None,
    before: Callable[[], None] = nothing,
) -> None:
    """Publish Recommendations as the training does."""
    documents = recommendations(run_id) if documents is None else documents
    with staged(db, RECOMMENDATIONS, run_id) as stage:
        stage.insert(documents)
        stage.seal(len(documents))
        publish(db, stage, lease=HookedLease(db, run_id, before))


def clusters(run_id: str, k: int = 3) -> list[Document]:
    return [{"cluster_id": i, "run_id": run_id, "recommendations": []} for i in range(k)]


def metadata(run_id: str) -> list[Document]:
    return [{"_id": name, "run_id": run_id} for name in (COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID)]


def publish_pair(
    db: MongoDatabase, run_id: str, before: Callable[[], None] = nothing, k: int = 3
) -> None:
    lease = HookedLease(db, run_id, before)
    publish_clusters(db, run_id, clusters(run_id, k), metadata(run_id), lease=lease)


def die_switching(db: MongoDatabase, run_id: str, switched: int) -> None:
    """Die in the switch of the pair, as by kill -9, after ``switched`` of its renames."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        staged(db, CLUSTERS, run_id) as new_clusters,
        staged(db, METADATA, run_id) as new_metadata,
    ):
        new_clusters.insert(clusters(run_id))
        new_clusters.seal(3)
        new_metadata.insert(metadata(run_id))
        new_metadata.seal(3)
        stages = [new_metadata, new_clusters]
        switch = switch_of({stage.name: stage.target for stage in stages})
        HookedLease(db, run_id, nothing).begin_switch(switch)
        for stage in stages[:switched]:
            db[stage.name].rename(stage.target, dropTarget=True)
        raise KeyboardInterrupt


def everything(db: MongoDatabase) -> dict[str, list[Document]]:
    """Return all documents but the lease and the previous ones, without empty collections."""
    content = {
        name: list(db[name].find().sort("_id"))
        for name in db.list_collection_names()
        if not name.startswith("system.") and name != STATE and not name.endswith(PREVIOUS)
    }
    return {name: documents for name, documents in content.items() if documents}


def clusters_and_metadata(db: MongoDatabase) -> list[Document]:
    """Return the documents of both collections at one moment; the server has snapshots."""
    with db.client.start_session(snapshot=True) as session:
        pair = [db[name].find({}, session=session) for name in (METADATA, CLUSTERS)]
        return [document for cursor in pair for document in cursor]


@contextlib.contextmanager
def watched(read: Callable[[], list[Document]]) -> Iterator[list[tuple[int, set[str]]]]:
    """Read documents all the time, as the backend does: how many there are, and of which runs."""
    seen: list[tuple[int, set[str]]] = []
    stop, started = threading.Event(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            # MongoDB ends a reading that the switch overtakes between two batches with an error.
            with contextlib.suppress(OperationFailure):
                documents = read()
                seen.append((len(documents), {document["run_id"] for document in documents}))
                started.set()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(watch)
        assert started.wait(30)
        try:
            yield seen
        finally:
            stop.set()
            reader.result()
