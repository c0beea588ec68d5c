"""Writes of others during a publication are kept."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs.late_writes import stream_position
from recommender.runs.switch import sweep, switch_of
from tests.publishing.publications import Asked, nothing, recommendations, train


class TestLateWrites:
    """Two writers of documents of their own during publications."""

    def lost(self, db: MongoDatabase, publications: int) -> tuple[set[str], int]:
        """Return whose last acknowledged upsert is gone afterwards, and the count of upserts."""
        acknowledged: dict[str, int] = {}
        stop = threading.Event()

        def write(writer: int) -> None:
            for number in itertools.count():
                if stop.is_set():
                    return
                # New documents, changed ones, replaced ones.
                user = f"guest {writer} {number if number % 2 else number % 7}"
                if number % 3:
                    change = {"$set": {"number": number}, "$setOnInsert": {"recommendations": []}}
                    db[RECOMMENDATIONS].update_one({"user_id": user}, change, upsert=True)
                else:
                    document = {"user_id": user, "number": number}
                    db[RECOMMENDATIONS].replace_one({"user_id": user}, document, upsert=True)
                acknowledged[user] = number

        train(db, "r0")
        with ThreadPoolExecutor(2) as pool:
            writers = [pool.submit(write, writer) for writer in range(2)]
            for number in range(publications):
                train(db, f"r{number + 1}")
            stop.set()
            for writer in writers:
                writer.result()
        live = {d["user_id"]: d.get("number") for d in db[RECOMMENDATIONS].find()}
        lost = {user for user, number in acknowledged.items() if live.get(user) != number}
        return lost, sum(number + 1 for number in acknowledged.values())

    def test_on_a_replica_set_none_is_lost(self, replica_set: MongoDatabase) -> None:
        lost, _ = self.lost(replica_set, 5)
        assert lost == set()

    def test_on_a_standalone_server_few_are_lost(self, db: MongoDatabase) -> None:
        lost, _ = self.lost(db, 5)
        assert len(lost) < 5

    def test_they_are_repeated_by_who_finishes_the_switch(self, replica_set: MongoDatabase) -> None:
        """As after kill -9 between the rename and the end."""
        live = replica_set[RECOMMENDATIONS]
        train(replica_set, "r0", recommendations("r0", 1))
        live.insert_many({"user_id": f"guest {n}"} for n in range(4))
        train(replica_set, "r1", recommendations("r1", 1))
        name = f"{RECOMMENDATIONS}.staged.r2"
        replica_set[name].insert_many(recommendations("r2", 2))
        replica_set[name].insert_many(live.find({"user_id": {"$regex": "guest"}}))
        note = switch_of(
            {name: RECOMMENDATIONS}, {RECOMMENDATIONS: "user_id"}, stream_position(replica_set)
        )
        Asked(replica_set, "r2", nothing).begin_switch(note)
        live.insert_one({"user_id": "new"})
        live.replace_one({"user_id": "guest 0"}, {"user_id": "guest 0", "list": [1, 2, 3]})
        live.update_one({"user_id": "guest 0"}, {"$push": {"list": {"$each": [], "$slice": 1}}})
        live.update_one({"user_id": "guest 1"}, {"$set": {"a": 1}, "$unset": {"b": 1}})
        live.delete_one({"user_id": "guest 2"})
        live.update_one({"user_id": "guest 3"}, {"$set": {"a": 1}})
        live.insert_one({"user_id": "u1", "recommendations": ["theirs"]})
        replica_set[name].rename(RECOMMENDATIONS, dropTarget=True)
        live.update_one({"user_id": "guest 3"}, {"$set": {"a": 2}})
        for _ in range(2):
            sweep(replica_set)
            found = {document.pop("user_id"): document for document in live.find({}, {"_id": 0})}
            assert found == {
                "u0": {"run_id": "r2", "recommendations": []},
                "u1": {"recommendations": ["theirs"]},
                "new": {},
                "guest 0": {"list": [1]},
                "guest 1": {"a": 1},
                "guest 3": {"a": 2},
            }

    def test_a_document_written_during_the_training_wins_over_the_staged_one(
        self, either: MongoDatabase
    ) -> None:
        live = either[RECOMMENDATIONS]
        live.insert_many([{"user_id": "u0"}, {"user_id": "u1"}])
        with staged(either, RECOMMENDATIONS, "r1", "user_id", keep_others=True) as stage:
            stage.insert(recommendations("r1", 4))
            stage.seal(4)
            live.update_one({"user_id": "u1"}, {"$set": {"changed": True}})
            live.insert_one({"user_id": "u2"})
            publish(either, stage, lease=Asked(either, "r1", nothing))
        found = {d["user_id"]: d.get("run_id") for d in live.find()}
        assert found == {"u0": "r1", "u1": None, "u2": None, "u3": "r1"}
