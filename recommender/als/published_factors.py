"""The restaurants' factors as a document of Metadata: any user can be folded in with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from threading import Lock
from typing import Any

import bson
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.fold_in import Preferences
from recommender.als.top_n import top_n
from recommender.core.errors import DataError
from recommender.core.logs import one_line
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import FACTORS_ID, METADATA
from recommender.data.ids import CODEC, as_decimal, decode_id, decode_ids, encode_id, positions_in
from recommender.data.ratings import Ratings
from recommender.publishing.bson_size import bytes_of_ids, entries_that_fit

_FLOAT32 = np.dtype("<f4")
_REASONS = 2


@dataclass(frozen=True, eq=False)
class PublishedFactors:
    """The published restaurants' factors, which rank restaurants for any user.

    Attributes
    ----------
    run_id
        The training that published them.
    fitted_by
        The training that fitted them.
    restaurants
        Keys of the restaurants' ids.
    preferences
        The factors.
    shown
        bool (restaurants,), the restaurants to recommend.
    rating_shift
        Added to each rating.
    """

    run_id: str
    fitted_by: str
    restaurants: pa.StringArray
    preferences: Preferences
    shown: NDArray[np.bool_]
    rating_shift: float

    @cached_property
    def position(self) -> dict[str, int]:
        """The position of each key of ``restaurants``."""
        return {key: i for i, key in enumerate(self.restaurants.to_pylist())}

    @cached_property
    def _position_of_number(self) -> dict[Decimal, int]:
        """The position of each numeric id: 1 and 1.0 are one id to MongoDB, of different keys."""
        typed = {i: as_decimal(decode_id(k)) for k, i in self.position.items() if k[:1] == "\0"}
        return {number: i for i, number in typed.items() if number is not None}

    @cached_property
    def _item_factors(self) -> NDArray[np.float32]:
        """The factors in the layout that `top_n` does not copy."""
        return np.asfortranarray(self.preferences.restaurant_factors)

    def recommend(
        self, ratings: Ratings, n: int, also_rated: pa.StringArray | None = None
    ) -> list[Document]:
        """Return the best unrated restaurants for one user, best first.

        Parameters
        ----------
        ratings
            The user's ratings.
        n
            Highest number of restaurants.
        also_rated
            Keys of more restaurants that the user has rated.

        Returns
        -------
        list of dict
            ``gmap_id``, ``score``, and ``because``: at most two of the user's rated restaurants,
            those that add most to the score.
        """
        item = self._positions(ratings.restaurants)[ratings.restaurant]
        is_known = item >= 0
        confidence = self._row(item[is_known], ratings.rating[is_known] + self.rating_shift)
        rated = item[is_known]
        if also_rated is not None:
            more = self._positions(also_rated)
            rated = np.concatenate([rated, more[more >= 0]])
        user_factors = self.preferences.user_factors(confidence)
        left_out = self._row(rated, np.ones(len(rated)))
        items, scores = top_n(user_factors, self._item_factors, n, left_out, self.shown)
        because = self.preferences.reasons(confidence, items, _REASONS)[0]
        return [
            {
                "gmap_id": self._id_of(int(item)),
                "score": score,
                "because": [self._id_of(reason) for reason in reasons if reason >= 0],
            }
            for item, score, reasons in zip(
                items[0], scores[0].tolist(), because.tolist(), strict=True
            )
            if item >= 0
        ]

    def _positions(self, keys: pa.StringArray) -> NDArray[np.int64]:
        """Return the position of each key, -1 where it is unknown."""

        def position(key: str) -> int:
            known = self.position.get(key)
            if known is None and key.startswith("\0"):
                number = as_decimal(decode_id(key))
                known = None if number is None else self._position_of_number.get(number)
            return -1 if known is None else known

        return np.array([position(key) for key in keys.to_pylist()], dtype=np.int64)

    def _row(self, items: NDArray[np.integer[Any]], values: NDArray[np.float64]) -> csr_array:
        """Return the values of the items as a matrix of one row."""
        indptr = [0, len(items)]
        return csr_array((values, items, indptr), shape=(1, len(self.restaurants)))

    def _id_of(self, item: int) -> Any:
        return decode_id(self.restaurants[item].as_py())


def factors_document(
    preferences: Preferences,
    restaurants: pa.StringArray,
    shown: NDArray[np.bool_],
    run_id: str,
    shift: float,
) -> Document:
    """Return the document of as many restaurants as fit 16 MB, the most popular ones.

    Parameters
    ----------
    restaurants
        Keys of the ids, in the order of the factors.
    shown
        bool (restaurants,), the restaurants to recommend.
    run_id
        The training that writes.
    shift
        Added to each rating by a reader.
    """
    order = np.argsort(-preferences.popularity, kind="stable")
    ids = decode_ids(restaurants.take(pa.array(order)))
    spectrum = preferences.spectrum.tolist()
    numbers_bytes = _FLOAT32.itemsize * (preferences.rank + 1) + 1
    fixed_bytes = len(bson.encode({"spectrum": spectrum}))
    kept = entries_that_fit(bytes_of_ids(ids) + numbers_bytes, fixed_bytes)
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
        "spectrum": spectrum,
        "alpha": preferences.alpha,
        "reg_param": preferences.reg_param,
        "rating_shift": shift,
        "restaurants_left_out": len(ids) - kept,
    }


def read_factors_document(db: MongoDatabase) -> Document | None:
    """Return the published document; None if there is none."""
    with mongo_errors("reading the published factors"):
        metadata = db[METADATA].with_options(codec_options=CODEC)
        return metadata.find_one({"_id": FACTORS_ID})


def with_shown(
    live: Document, restaurants: pa.StringArray, shown: NDArray[np.bool_], run_id: str
) -> Document:
    """Return the published document of another training with the restaurants now shown.

    Parameters
    ----------
    live
        The published document.
    restaurants, shown
        Keys of the ids, and which of them to recommend; other restaurants stay as they are.
    run_id
        The training that writes.
    """
    keys = pa.array([str(encode_id(gmap_id)) for gmap_id in live["gmap_ids"]], pa.string())
    position = positions_in(restaurants, keys)
    before = np.frombuffer(live["shown"], np.bool_)
    now = np.where(position >= 0, shown[position], before)
    return {**live, "run_id": run_id, "shown": now.tobytes()}


def load_factors(db: MongoDatabase) -> PublishedFactors | None:
    """Read the published factors; None if no training has published any.

    Raises
    ------
    DataError
        If the document is invalid.
    """
    document = read_factors_document(db)
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
    """Caches the published factors until a training publishes new ones.

    Any number of threads may share it. One of them loads new factors; the others go on with the
    old ones meanwhile, or wait for the first ones.

    Parameters
    ----------
    db
        The database.
    """

    def __init__(self, db: MongoDatabase) -> None:
        self._db = db
        self._loading = Lock()
        self._loaded: PublishedFactors | None = None

    def get(self) -> PublishedFactors | None:
        """Return the published factors, as :func:`load_factors` does."""
        with mongo_errors("reading the published factors"):
            live = self._db[METADATA].find_one({"_id": FACTORS_ID}, {"run_id": 1}) or {}
        loaded = self._loaded
        if loaded is not None and loaded.run_id == live.get("run_id"):
            return loaded
        if not self._loading.acquire(blocking=loaded is None):
            return loaded
        try:
            if self._loaded is None or self._loaded.run_id != live.get("run_id"):
                self._loaded = load_factors(self._db)
            return self._loaded
        finally:
            self._loading.release()


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
