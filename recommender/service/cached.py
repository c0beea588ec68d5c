"""What a training has published, kept in memory until another one publishes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

from recommender.core.mongo import MongoDatabase, quick_read
from recommender.core.mongo_collections import METADATA

T = TypeVar("T")


@dataclass(eq=False)
class CachedUntilPublished(Generic[T]):
    """Caches what ``load`` reads until a document of Metadata has another run id; for any thread.

    ``load`` returns None, or raises, before anything is published.
    """

    db: MongoDatabase
    document_id: str
    load: Callable[[MongoDatabase], T | None]
    _loading: Lock = field(default_factory=Lock, init=False)
    _loaded: tuple[object, T | None] = field(default=(None, None), init=False)  # of a run id

    def get(self) -> T | None:
        """Return what is published; one thread loads it, others go on with the old or wait."""
        with quick_read("reading what is published"):
            live = self.db[METADATA].find_one({"_id": self.document_id}, {"run_id": 1}) or {}
        run_id, loaded = live.get("run_id"), self._loaded
        if run_id is None:
            return None
        if loaded[0] == run_id or not self._loading.acquire(blocking=loaded[0] is None):
            return loaded[1]
        try:
            if self._loaded is loaded:  # not loaded by another thread meanwhile
                self._loaded = run_id, self.load(self.db)
            return self._loaded[1]
        finally:
            self._loading.release()
