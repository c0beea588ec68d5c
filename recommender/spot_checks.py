"""Spot checks of staged documents, decoded as readers decode them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pymongo.collection import Collection

from recommender.core.mongo import Document
from recommender.data.ids import CODEC, encode_id

SAMPLE_SIZE = 100


def sample_faults(staged: Collection[Document], run_id: str) -> list[str]:
    """Return the faults of documents that are drawn at random, in a few words each.

    Parameters
    ----------
    staged
        The collection to draw from.
    run_id
        The run that wrote the documents.
    """
    drawn = staged.with_options(codec_options=CODEC).aggregate([{"$sample": {"size": SAMPLE_SIZE}}])
    faults = (fault_of(document, run_id) for document in drawn)
    return [fault for fault in faults if fault]


def fault_of(document: Mapping[str, Any], run_id: str) -> str | None:
    """Return a fault of a document, or None."""
    if document.get("run_id") != run_id:
        return f"run_id is {document.get('run_id')!r}, not {run_id!r}"
    entries = document.get("recommendations", [])
    scores = [entry["score"] for entry in entries]
    if not all(map(math.isfinite, scores)):
        return "a score is not finite"
    if any(later > earlier for earlier, later in pairwise(scores)):
        return "the recommendations are not best first"
    if len({encode_id(entry["gmap_id"]) for entry in entries}) < len(entries):
        return "a restaurant is recommended twice"
    return None
