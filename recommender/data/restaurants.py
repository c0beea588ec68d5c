"""The optional collection ``Restaurants``: names, and which restaurants may be recommended."""

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pymongo.errors import OperationFailure

from recommender.core.errors import ConfigurationError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors, reason_of, source_of
from recommender.data.ids import CODEC, READABLE, KeyIndex

log = logging.getLogger(__name__)


def shown_restaurants(
    db: MongoDatabase, restaurants: pa.StringArray, exclude: Document | None
) -> NDArray[np.bool_]:
    """Return bool (n,), false for each key of a restaurant that ``RESTAURANTS_EXCLUDE`` matches.

    ConfigurationError for a filter that MongoDB refuses.
    """
    shown = np.ones(len(restaurants), dtype=bool)
    if exclude is None:
        return shown
    documents = source_of(db)["Restaurants"].with_options(codec_options=CODEC)
    with mongo_errors("reading Restaurants"):
        documents.find_one({}, {"_id": 1})  # else it is not the filter that is refused
        try:
            matching = documents.find(exclude, {"_id": 0, "gmap_id": 1}).to_list()
        except OperationFailure as error:
            raise ConfigurationError(f"RESTAURANTS_EXCLUDE: {reason_of(error)}") from None
    positions = KeyIndex(restaurants).find_all(document.get("gmap_id") for document in matching)
    shown[positions[positions >= 0]] = False
    log.info("RESTAURANTS_EXCLUDE leaves out %d restaurants", int((~shown).sum()))
    return shown


def restaurant_names(db: MongoDatabase, ids: Iterable[Any]) -> dict[Any, str]:
    """Return the names of restaurants by id, of those that ``Restaurants`` names."""
    matching = {"name": {"$type": "string"}, "gmap_id": {"$in": list(ids)}}
    with mongo_errors("reading Restaurants"):
        restaurants = source_of(db)["Restaurants"].with_options(codec_options=READABLE)
        documents = restaurants.find(matching, {"_id": 0, "gmap_id": 1, "name": 1})
        return {d["gmap_id"]: d["name"] for d in documents if isinstance(d["gmap_id"], Hashable)}


class RestaurantNames:
    """The names of restaurants in memory; ``ids`` in the order in which a search lists them."""

    def __init__(self, ids: Sequence[Any], names: Mapping[Any, str]) -> None:
        self._ids = ids
        self._names: dict[Any, str] = {str(i): name for i, name in names.items()} | dict(names)
        self._texts = [f"{self.of(i) or ''} {i}".strip().casefold() for i in ids]

    def of(self, gmap_id: Any) -> str | None:
        """Return a restaurant's name by its id or the id's text, None if it is unknown."""
        return self._names.get(gmap_id) if isinstance(gmap_id, Hashable) else None

    def __bool__(self) -> bool:
        return bool(self._names)

    def search(self, text: str, limit: int) -> list[Any]:
        """Return ids whose name and id contain all words of a text, whole beginnings first."""
        start, words = text.casefold(), text.casefold().split()
        matches = [n for n, t in enumerate(self._texts) if all(word in t for word in words)]
        matches.sort(key=lambda n: not self._texts[n].startswith(start))
        return [self._ids[n] for n in matches[:limit]]
