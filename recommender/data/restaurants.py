"""The optional collection ``Restaurants``: names, and which restaurants may be recommended."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.settings import Settings
from recommender.data.ids import CODEC, keys_of, positions_in

COLLECTION = "Restaurants"

log = logging.getLogger(__name__)


def shown_restaurants(
    db: MongoDatabase, restaurants: pa.StringArray, settings: Settings
) -> NDArray[np.bool_]:
    """Return which restaurants may be recommended: those that match no ``RESTAURANTS_EXCLUDE``.

    Parameters
    ----------
    restaurants
        Keys of their ids, (n,).

    Returns
    -------
    numpy.ndarray
        bool (n,).

    Raises
    ------
    DatabaseUnavailableError
        If MongoDB refuses ``RESTAURANTS_EXCLUDE`` or does not answer.
    """
    shown = np.ones(len(restaurants), dtype=bool)
    if settings.reviews.restaurants_exclude is None:
        return shown
    with mongo_errors("finding what RESTAURANTS_EXCLUDE excludes"):
        documents = db[COLLECTION].with_options(codec_options=CODEC)
        matching = documents.find(settings.reviews.restaurants_exclude, {"_id": 0, "gmap_id": 1})
        excluded = keys_of(document.get("gmap_id") for document in matching)
    positions = positions_in(restaurants, excluded)
    shown[positions[positions >= 0]] = False
    log.info("RESTAURANTS_EXCLUDE leaves out %d restaurants", int((~shown).sum()))
    return shown


def restaurant_names(db: MongoDatabase, ids: Iterable[Any] | None = None) -> dict[Any, str]:
    """Return the names of restaurants by id, as far as ``Restaurants`` knows them.

    Parameters
    ----------
    ids
        The restaurants to look up; None for all.

    Raises
    ------
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    matching: Document = {"name": {"$type": "string"}}
    if ids is not None:
        matching["gmap_id"] = {"$in": list(ids)}
    with mongo_errors("reading Restaurants"):
        documents = db[COLLECTION].find(matching, {"_id": 0, "gmap_id": 1, "name": 1})
        return {
            d["gmap_id"]: d["name"] for d in documents if isinstance(d.get("gmap_id", []), Hashable)
        }
