"""Which restaurants are not to be recommended, by what the collection Restaurants says of them."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recommender.mongo import MongoDatabase, mongo_errors
from recommender.ratings import CODEC, keys_of, positions_in
from recommender.settings import Settings

COLLECTION = "Restaurants"

log = logging.getLogger(__name__)


def shown_restaurants(
    db: MongoDatabase, restaurants: pa.StringArray, settings: Settings
) -> NDArray[np.bool_]:
    """Return which restaurants may be recommended: all but those that match the setting.

    Parameters
    ----------
    restaurants
        Keys of their ids.

    Raises
    ------
    DatabaseUnavailableError
        If MongoDB refuses ``RESTAURANTS_EXCLUDE`` or does not answer.
    """
    shown = np.ones(len(restaurants), dtype=bool)
    if settings.restaurants_exclude is None:
        return shown
    with mongo_errors("finding what RESTAURANTS_EXCLUDE excludes"):
        places = db[COLLECTION].with_options(codec_options=CODEC)
        found = places.find(settings.restaurants_filter, {"_id": 0, "gmap_id": 1})
        excluded = keys_of(entry.get("gmap_id") for entry in found)
    positions = positions_in(restaurants, excluded)
    shown[positions[positions >= 0]] = False
    log.info("RESTAURANTS_EXCLUDE leaves out %d restaurants", int((~shown).sum()))
    return shown
