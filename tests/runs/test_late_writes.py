"""Writes of others during a publication are kept."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bson import DatetimeMS
from pymongo.errors import WriteError

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs.late_writes import Polling, digest, others_in, stream_position
from recommender.runs.switch import PREVIOUS, recover
from tests.publishing.publications import HookedLease, nothing, recommendations, switch_of, train
from tests.waiting import until

QUERY_PLAN_KILLED = 175
# Dates that Python cannot represent.
ODD: Document = {"user_id": "odd", "at": DatetimeMS(2**62)}
GONE: Document = {"user_id": "gone", "at": DatetimeMS(2**62)}


def upsert(db: MongoDatabase, user: str, number: int) -> bool:
    """Write a document as a backend does; return whether it was acknowledged."""
    try:
        if number % 3:
            change = {"$set": {"number": number}, "$setOnInsert": {"recommendations": []}}
            db[RECOMMENDATIONS].update_one({"user_id": user}, change, upsert=True)
        else:
            document = {"user_id": user, "number": number}
            db[RECOMMENDATIONS].replace_one({"user_id": user}, document, upsert=True)
    except WriteError as error:
        if error.code != QUERY_PLAN_KILLED:  # by the rename
            raise
        return False
    return True


class TestLateWrites:
    """Two writers of documents of their own during publications."""

    def lost(self, db: MongoDatabase, publications: int) -> set[str]:
        """Return whose last acknowledged upsert is gone afterwards."""
        acknowledged: dict[str, int] = {}
        stop = threading.Event()

        def write(writer: int) -> None:
            for number in itertools.count():
                if stop.is_set():
                    return
                # New documents, changed ones, replaced ones.
                user = f"guest {writer} {number if number % 2 else number % 7}"
                if upsert(db, user, number):
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
        return {user for user, number in acknowledged.items() if live.get(user) != number}

    def test_a_replica_set_loses_none(self, replica_set: MongoDatabase) -> None:
        assert self.lost(replica_set, 5) == set()

    def test_either_server_keeps_writes_just_before_the_rename(self, either: MongoDatabase) -> None:
        live = either[RECOMMENDATIONS]

        def write() -> None:
            """Write when the documents of others have been copied."""
            live.insert_many([{"user_id": "new"}, {"user_id": "u1"}, ODD, GONE])
            live.delete_one({"user_id": GONE["user_id"]})
            live.update_one({"user_id": "changed"}, {"$set": {"number": 1}})
            live.replace_one({"user_id": "replaced"}, {"user_id": "replaced", "number": 1})

        live.insert_many({"user_id": user} for user in ("changed", "replaced", "same"))
        with staged(either, RECOMMENDATIONS, "r1") as stage:
            stage.insert(recommendations("r1", 2))
            stage.seal(2)
            publish(either, stage, lease=HookedLease(either, "r1", write))
        documents = {
            each["user_id"]: each.get("number", each.get("run_id"))
            for each in live.find({"user_id": {"$ne": GONE["user_id"]}}, {"at": 0})
        }
        none = dict.fromkeys(("u1", "new", "same", "odd"))
        assert documents == {"u0": "r1", "changed": 1, "replaced": 1, **none}

    def test_another_process_repeats_them(self, replica_set: MongoDatabase) -> None:
        """As after kill -9 between the rename and the end."""
        live = replica_set[RECOMMENDATIONS]
        train(replica_set, "r0", recommendations("r0", 1))
        live.insert_many({"_id": n, "user_id": f"guest {n}"} for n in range(7))
        train(replica_set, "r1", recommendations("r1", 1))
        live.insert_many({"_id": user, "user_id": user} for user in ("u1", "u2"))
        name = f"{RECOMMENDATIONS}.staged.r2"
        live.aggregate([{"$out": name + PREVIOUS}])
        replica_set[name].create_index("user_id", unique=True)
        replica_set[name].insert_many(recommendations("r2", 5))
        replica_set[name].insert_many(live.find({"user_id": {"$regex": "guest"}}))
        note = switch_of(
            {name: RECOMMENDATIONS}, {RECOMMENDATIONS: "user_id"}, stream_position(replica_set)
        )
        HookedLease(replica_set, "r2", nothing).begin_switch(note)
        live.update_one({"_id": 6}, {"$set": {"user_id": "u4"}})  # of a staged document: refused
        live.insert_one({"user_id": "new"})
        live.replace_one({"user_id": "guest 0"}, {"user_id": "guest 0", "list": [1, 2, 3]})
        live.update_one({"user_id": "guest 0"}, {"$push": {"list": {"$each": [], "$slice": 1}}})
        live.update_one({"user_id": "guest 1"}, {"$set": {"a": 1}, "$unset": {"b": 1}})
        live.delete_one({"user_id": "guest 2"})
        live.update_one({"user_id": "guest 3"}, {"$set": {"a": 1}})
        for user, again in (("guest 4", {"_id": 4}), ("guest 5", {})):
            live.delete_one({"user_id": user})
            live.insert_one({**again, "user_id": user, "again": True})
        live.update_one({"user_id": "u2"}, {"$set": {"a": 1}})  # it lost to a staged document
        live.insert_one({"user_id": "u3", "recommendations": ["theirs"]})
        replica_set[name].rename(RECOMMENDATIONS, dropTarget=True)
        live.update_one({"user_id": "guest 3"}, {"$set": {"a": 2}})
        for _ in range(2):
            recover(replica_set)
            documents = {each.pop("user_id"): each for each in live.find({}, {"_id": 0})}
            assert documents == {
                "u0": {"run_id": "r2", "recommendations": []},
                "u1": {"run_id": "r2", "recommendations": []},
                "u2": {"a": 1},
                "u3": {"recommendations": ["theirs"]},
                "u4": {"run_id": "r2", "recommendations": []},
                "new": {},
                "guest 0": {"list": [1]},
                "guest 1": {"a": 1},
                "guest 3": {"a": 2},
                "guest 4": {"again": True},
                "guest 5": {"again": True},
                "guest 6": {},
            }

    def test_polling_keeps_the_last_of_several_versions(self, db: MongoDatabase) -> None:
        def seen(polling: Polling, version: int) -> bool:
            return [each["version"] for each in polling.seen.values()].count(version) == 20

        live = db[RECOMMENDATIONS]
        live.insert_many({"user_id": user, "version": 0} for user in range(20))
        known = {digest(document) for document in others_in(live)}
        live.aggregate([{"$out": "new"}])
        with Polling(live, "user_id", known) as polling:
            for version in (1, 2):
                live.update_many({}, {"$set": {"version": version}})
                until(partial(seen, polling, version))
            db["new"].rename(RECOMMENDATIONS, dropTarget=True)
        assert live.distinct("version") == [2]

    def test_a_document_written_during_the_training_wins_over_the_staged_one(
        self, either: MongoDatabase
    ) -> None:
        live = either[RECOMMENDATIONS]
        live.insert_many([{"user_id": "u0"}, {"user_id": "u1"}])
        with staged(either, RECOMMENDATIONS, "r1") as stage:
            stage.insert(recommendations("r1", 4))
            stage.seal(4)
            live.update_one({"user_id": "u1"}, {"$set": {"changed": True}})
            live.insert_many([{"user_id": "u2"}, ODD])
            publish(either, stage, lease=HookedLease(either, "r1", nothing))
        run_ids = {d["user_id"]: d.get("run_id") for d in live.find({}, {"at": 0})}
        assert run_ids == {"u0": "r1", "u1": None, "u2": None, "u3": "r1", "odd": None}
