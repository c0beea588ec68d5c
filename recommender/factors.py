"""The restaurants' factors as a document of Metadata, with which anybody can be folded in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bson
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.errors import DataError
from recommender.foldin import Preferences
from recommender.mongo import Document, MongoDatabase, mongo_errors, one_line
from recommender.ratings import CODEC, Ratings, decode_ids, encode_id, positions_in
from recommender.store import FACTORS_ID, MAX_DOCUMENT_BYTES, METADATA
from recommender.topn import top_n_shown

_FLOAT32 = np.dtype("<f4")
_OTHER_FIELDS_BYTES = 65_536
_POSITION_BYTES = 9  # of an id in a BSON array: type, decimal digits, closing NUL
_FRAME_BYTES = 7  # of the document around an id that is encoded alone


@dataclass(frozen=True, eq=False)
class PublishedFactors:
    """What ranks restaurants for anybody.

    Attributes
    ----------
    run_id
        The training that published them.
    fitted_by
        The training that fitted them.
    restaurants
        Keys of the restaurants' ids.
    preferences
        Their factors.
    shown
        bool (restaurants,), which may be recommended.
    rating_shift
        What a reader adds to each rating.
    """

    run_id: str
    fitted_by: str
    restaurants: pa.StringArray
    preferences: Preferences
    shown: NDArray[np.bool_]
    rating_shift: float

    def recommend(
        self, ratings: Ratings, n: int, also_rated: pa.StringArray | None = None
    ) -> list[Document]:
        """Return the best restaurants for one user, less what is rated.

        Parameters
        ----------
        ratings
            The user's.
        n
            How many, at most.
        also_rated
            Keys of more restaurants that the user has rated, whatever was given.
        """
        place = positions_in(self.restaurants, ratings.restaurants)[ratings.restaurant]
        known = place >= 0
        values = ratings.rating[known] + self.rating_shift
        row = np.zeros(int(known.sum()), dtype=np.int64)
        visits = csr_array((values, (row, place[known])), shape=(1, len(self.restaurants)))
        users = self.preferences.user_factors(visits)
        factors = self.preferences.restaurant_factors
        shown = self.shown
        if also_rated is not None:
            shown = shown & (positions_in(also_rated, self.restaurants) < 0)
        items, scores = top_n_shown(users, factors, n, visits, shown)
        ids = decode_ids(self.restaurants.take(pa.array(items[0][items[0] >= 0])))
        return [
            {"gmap_id": gmap_id, "score": score}
            for gmap_id, score in zip(ids, scores[0].tolist(), strict=False)
        ]


def factors_document(
    preferences: Preferences,
    restaurants: pa.StringArray,
    shown: NDArray[np.bool_],
    run_id: str,
    shift: float,
) -> Document:
    """Return the document: as many of the restaurants as fit 16 MB, the most popular ones.

    Parameters
    ----------
    restaurants
        Keys of the ids, in the order of the factors.
    shown
        bool (restaurants,), which may be recommended.
    run_id
        The training that writes.
    shift
        What a reader adds to each rating.
    """
    order = np.argsort(-preferences.popularity, kind="stable")
    ids = decode_ids(restaurants.take(pa.array(order)))
    id_bytes = np.array([len(bson.encode({"": i})) for i in ids]) - _FRAME_BYTES + _POSITION_BYTES
    numbers_bytes = _FLOAT32.itemsize * (preferences.rank + 1) + 1
    total_bytes = np.cumsum(id_bytes + numbers_bytes)
    kept = int(np.searchsorted(total_bytes, MAX_DOCUMENT_BYTES - _OTHER_FIELDS_BYTES, side="right"))
    order = order[:kept]
    return {
        "_id": FACTORS_ID,
        "run_id": run_id,
        "fitted_by": run_id,
        "gmap_ids": ids[:kept],
        "rank": preferences.rank,
        "factors": preferences.factors[order].astype(_FLOAT32).tobytes(),
        "popularity": preferences.popularity[order].astype(_FLOAT32).tobytes(),
        "shown": shown[order].tobytes(),
        "spectrum": preferences.spectrum.tolist(),
        "alpha": preferences.alpha,
        "reg_param": preferences.reg_param,
        "rating_shift": shift,
        "restaurants_left_out": len(ids) - kept,
    }


def live_factors(db: MongoDatabase) -> Document | None:
    """Return the published document, if there is one."""
    with mongo_errors("reading the published factors"):
        metadata = db[METADATA].with_options(codec_options=CODEC)
        return metadata.find_one({"_id": FACTORS_ID})


def still_shown(
    live: Document, restaurants: pa.StringArray, shown: NDArray[np.bool_], run_id: str
) -> Document:
    """Return the published document with what may be recommended now, for another training.

    Parameters
    ----------
    live
        The document.
    restaurants, shown
        Keys of the ids, and which may be recommended; others stay as they are.
    run_id
        The training that writes.
    """
    keys = pa.array([str(encode_id(gmap_id)) for gmap_id in live["gmap_ids"]], pa.string())
    place = positions_in(restaurants, keys)
    before = np.frombuffer(live["shown"], np.bool_)
    now = np.where(place >= 0, shown[place], before)
    return {**live, "run_id": run_id, "shown": now.tobytes()}


def load_factors(db: MongoDatabase) -> PublishedFactors | None:
    """Read the published factors; None where no training has published any.

    Raises
    ------
    DataError
        If the document is of another shape.
    """
    document = live_factors(db)
    if document is None:
        return None
    try:
        return _factors(document)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"Metadata's {FACTORS_ID} is of another shape ({one_line(repr(error))}); "
            "run als_training.py"
        ) from None


class LiveFactors:
    """Keeps the published factors at hand until a training publishes others.

    Parameters
    ----------
    db
        The database.
    """

    def __init__(self, db: MongoDatabase) -> None:
        self._db = db
        self._found: PublishedFactors | None = None

    def get(self) -> PublishedFactors | None:
        """Return the factors that are published now, as :func:`load_factors` does."""
        with mongo_errors("reading the published factors"):
            live = self._db[METADATA].find_one({"_id": FACTORS_ID}, {"run_id": 1}) or {}
        found = self._found
        if found is None or found.run_id != live.get("run_id"):
            found = self._found = load_factors(self._db)
        return found


def _factors(document: Mapping[str, Any]) -> PublishedFactors:
    keys = [encode_id(gmap_id) for gmap_id in document["gmap_ids"]]
    shape = len(keys), int(document["rank"])
    factors = np.frombuffer(document["factors"], _FLOAT32).reshape(shape)
    popularity = np.frombuffer(document["popularity"], _FLOAT32).reshape(len(keys))
    spectrum = np.array(document["spectrum"], dtype=np.float64).reshape(shape[1])
    shown = np.frombuffer(document["shown"], np.bool_).reshape(len(keys))
    return PublishedFactors(
        run_id=str(document["run_id"]),
        fitted_by=str(document["fitted_by"]),
        restaurants=pa.array([str(key) for key in keys], pa.string()),
        preferences=Preferences(
            factors=factors.astype(np.float32),
            spectrum=spectrum,
            popularity=popularity.astype(np.float32),
            alpha=float(document["alpha"]),
            reg_param=float(document["reg_param"]),
        ),
        shown=shown,
        rating_shift=float(document["rating_shift"]),
    )
