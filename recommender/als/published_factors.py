"""The restaurants' factors as a document of Metadata: any user can be folded in with them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import bson
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.fold_in import PreferenceModel
from recommender.core.errors import DataError
from recommender.core.logs import one_line
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import FACTORS_ID, METADATA
from recommender.data.ids import CODEC, KeyIndex, decode_ids, keys_of
from recommender.data.ratings import Ratings
from recommender.publishing.bson_size import bytes_of_ids, entries_that_fit

_FLOAT32 = np.dtype("<f4")
_REASONS = 2
_NO_KEYS = pa.array([], pa.string())

Items = NDArray[np.integer[Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PublishedFactors:
    """The published restaurants' factors, which rank restaurants for any user."""

    run_id: str  # the training that published them
    fitted_by: str  # the training that fitted them
    restaurants: pa.StringArray  # keys of the restaurants' ids
    preferences: PreferenceModel
    shown: NDArray[np.bool_]  # (restaurants,), the restaurants to recommend
    rating_shift: float  # added to each rating

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self.restaurants)

    def recommend(
        self, ratings: Ratings, n: int, also_rated: pa.StringArray = _NO_KEYS
    ) -> list[Document]:
        """Return at most ``n`` of the best unrated restaurants for one user, best first.

        ``also_rated`` are the keys of more restaurants that are left out. Each entry has
        ``gmap_id``, ``score``, and ``because``: the at most two rated ones that add most to it.
        """
        confidence = self._confidence(ratings)
        (user,) = self.preferences.user_factors(confidence)
        # One product: the search of `top_n` first sorts and copies all factors, for many users.
        scores = self.preferences.item_factors @ user
        also = self._index.find_all(decode_ids(also_rated))
        scores[~self.shown] = scores[confidence.indices] = scores[also[also >= 0]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:n]
        best = best[np.isfinite(scores[best])]
        because = self.preferences.reasons(confidence, best, _REASONS)
        entries = self._entries(best, scores[best])
        return [e | {"because": self._ids(r)} for e, r in zip(entries, because, strict=True)]

    def because(self, ratings: Ratings, gmap_ids: Sequence[Any]) -> list[list[Any]]:
        """Return, for each recommended id, the reasons as :meth:`recommend` does."""
        items = self._index.find_all(gmap_ids)
        reasons = np.full((len(items), _REASONS), -1, dtype=np.int32)
        confidence, known = self._confidence(ratings), items >= 0
        reasons[known] = self.preferences.reasons(confidence, items[known], _REASONS)
        return [self._ids(row) for row in reasons]

    def covers(self, ratings: Ratings) -> bool:
        """Return true if a user's ratings affect the ranking: one restaurant has factors."""
        return bool(self.preferences.factors[self._confidence(ratings).indices].any())

    def popular(self, n: int) -> list[Document]:
        """Return at most ``n`` of the most popular restaurants: ``gmap_id``, ``score``."""
        items = np.flatnonzero(self.shown)[:n]  # published in this order
        return self._entries(items, self.preferences.popularity[items])

    def similar(self, gmap_id: Any, n: int) -> list[Document]:
        """Return at most ``n`` restaurants rated by the same users, by the factors' cosine."""
        item = self._index.find(gmap_id)
        if item < 0 or not self._unit_factors[item].any():
            return []
        cosines = self._unit_factors @ self._unit_factors[item]
        cosines[[item, *np.flatnonzero(~self.shown)]] = -1.0
        best = np.argsort(-cosines, kind="stable")[:n]
        best = best[cosines[best] > 0]
        return self._entries(best, cosines[best])

    def _entries(self, items: Items, scores: NDArray[np.float32]) -> list[Document]:
        rows = zip(self._ids(items), scores.tolist(), strict=True)
        return [{"gmap_id": gmap_id, "score": score} for gmap_id, score in rows]

    @cached_property
    def _unit_factors(self) -> NDArray[np.float32]:
        """The factors at length 1, or 0."""
        norms = np.linalg.norm(self.preferences.factors, axis=1, keepdims=True)
        return (self.preferences.factors / np.where(norms, norms, 1)).astype(np.float32)

    def _confidence(self, ratings: Ratings) -> csr_array:
        """Return one user's row of the confidence matrix."""
        return ratings.over(self._index, self.rating_shift)

    def _ids(self, items: Items) -> list[Any]:
        """Return the ids of the items, which -1 may follow."""
        return decode_ids(self.restaurants.take(pa.array(items[items >= 0])))


def factors_document(
    preferences: PreferenceModel,
    restaurants: pa.StringArray,
    shown: NDArray[np.bool_],
    run_id: str,
    shift: float,
) -> Document:
    """Return the document of the most popular restaurants, of these keys, that fit 16 MB."""
    order = np.argsort(-preferences.popularity, kind="stable")
    ids = decode_ids(restaurants.take(pa.array(order)))
    spectrum = preferences.spectrum.tolist()
    numbers_bytes = _FLOAT32.itemsize * (len(spectrum) + 1) + 1
    fixed_bytes = len(bson.encode({"spectrum": spectrum}))
    kept = entries_that_fit(bytes_of_ids(ids) + numbers_bytes, fixed_bytes)
    order = order[:kept]
    return {
        "_id": FACTORS_ID,
        "run_id": run_id,
        "fitted_by": run_id,
        "gmap_ids": ids[:kept],
        "rank": len(spectrum),
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
        return db.get_collection(METADATA, CODEC).find_one({"_id": FACTORS_ID})


def with_shown(
    live: Document, restaurants: pa.StringArray, shown: NDArray[np.bool_], run_id: str
) -> Document | None:
    """Return the published document with these restaurants, by their keys, ``shown`` or not.

    Others stay as they are. None, with a warning, if the document is invalid.
    """
    try:
        published = _decoded(live)
    except DataError as error:
        log.warning("%s; until then there are none", error)
        return None
    position = KeyIndex(restaurants).find_all(decode_ids(published.restaurants))
    now = np.where(position >= 0, shown[position], published.shown)
    return {**live, "run_id": run_id, "shown": now.tobytes()}


def load_factors(db: MongoDatabase) -> PublishedFactors | None:
    """Read the published factors, None before any; DataError if the document is invalid."""
    document = read_factors_document(db)
    return _decoded(document) if document else None


def _decoded(document: Document) -> PublishedFactors:
    try:
        restaurants = keys_of(document["gmap_ids"])
        count, rank = len(restaurants), int(document["rank"])
        return PublishedFactors(
            run_id=str(document["run_id"]),
            fitted_by=str(document["fitted_by"]),
            restaurants=restaurants,
            preferences=PreferenceModel(
                factors=np.frombuffer(document["factors"], _FLOAT32).reshape(count, rank),
                spectrum=np.array(document["spectrum"], dtype=np.float64).reshape(rank),
                popularity=np.frombuffer(document["popularity"], _FLOAT32).reshape(count),
                alpha=float(document["alpha"]),
                reg_param=float(document["reg_param"]),
            ),
            shown=np.frombuffer(document["shown"], np.bool_).reshape(count),
            rating_shift=float(document["rating_shift"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"Metadata's {FACTORS_ID} has an unexpected shape ({one_line(repr(error))}); "
            "run als_training.py"
        ) from None
