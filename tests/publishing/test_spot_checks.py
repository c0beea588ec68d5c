"""Spot checks of staged documents."""

from typing import Any

import pytest
from bson import ObjectId

from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.publishing.staging import SAMPLE_SIZE, fault_of, staged

ENTRIES = [(ObjectId(), 2.0), ("1", 2.0), (1, -0.5)]


def document(entries: list[tuple[Any, float]], **fields: Any) -> Document:
    listed = [{"gmap_id": gmap_id, "score": score} for gmap_id, score in entries]
    return {"run_id": "r1", "recommendations": listed, **fields}


@pytest.mark.parametrize(
    "staged_document", [document(ENTRIES), document([]), {"run_id": "r1", "columns": ["a"]}]
)
def test_correct_documents_have_no_fault(staged_document: Document) -> None:
    assert fault_of(staged_document, "r1") is None


@pytest.mark.parametrize(
    ("staged_document", "fault"),
    [
        (document(ENTRIES, run_id="r0"), "run_id is 'r0', not 'r1'"),
        (document([("a", float("nan"))]), "not finite"),
        (document([("a", float("inf")), ("b", 1.0)]), "not finite"),
        (document(ENTRIES[::-1]), "not best first"),
        (document([("a", 2.0), ("a", 1.0)]), "twice"),
    ],
)
def test_documents_with_a_fault(staged_document: Document, fault: str) -> None:
    assert fault in (fault_of(staged_document, "r1") or "")


def test_a_stage_with_a_fault_is_not_published(db: MongoDatabase) -> None:
    good = [document(ENTRIES, user_id=n) for n in range(SAMPLE_SIZE - 1)]
    with staged(db, RECOMMENDATIONS, "r1") as stage:
        stage.insert([*good, document(ENTRIES[::-1], user_id="bad")])
        with pytest.raises(PublishError, match="not best first"):
            stage.seal(SAMPLE_SIZE)
    assert db.list_collection_names() == []
