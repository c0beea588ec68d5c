"""The switch: staged collections replace the live ones, and any process can finish it.

It is noted in the lease's document first (`recommender.runs.lease.Lease.begin_switch`): only the
lease's holder can begin one, and the next holder reads the note and does the rest. What was live
before is kept under the target's name and :data:`PREVIOUS`. The note holds

- ``stages``: each stage and its target, in the order of the switch, and whether the transaction
  that wrote the note has replaced the target's documents in place;
- ``kept``: the unique field of each other target that keeps documents of others;
- ``position``: that in the change stream before these were copied, None without change streams;
- ``replaced``: the run that switches, ``by``, and the ``generations`` that it replaces, by target.
"""

import logging
import re
import time

from bson.errors import BSONError
from pymongo.errors import AutoReconnect, OperationFailure, WriteConcernError

from recommender.core import mongo_collections as names
from recommender.core.errors import PublishError
from recommender.core.logs import one_line
from recommender.core.mongo import Document, MongoDatabase, reason_of
from recommender.runs.late_writes import replay
from recommender.runs.lease import COLLECTION as STATE
from recommender.runs.lease import LEASE_ID, SWITCH

PREVIOUS = ".previous"
REPLACED = "replaced"

_NO_SUCH_COLLECTION = 26
_SWITCH_SECONDS = 30.0
_RETRY_SECONDS = 0.2

log = logging.getLogger(__name__)


def is_switching(db: MongoDatabase, stage: str) -> bool:
    """Return true if a stage is part of the switch that is noted."""
    return bool(db[STATE].count_documents({"_id": LEASE_ID, f"{SWITCH}.stages.stage": stage}))


def finish_with_retries(db: MongoDatabase) -> None:
    """Finish the switch, also over a server's restart; PublishError if it was refused before."""
    deadline = time.monotonic() + _SWITCH_SECONDS
    while True:
        try:
            if finish_switch(db):
                return
        except AutoReconnect as error:
            if time.monotonic() > deadline:
                raise
            log.warning("cut off in the switch, trying again: %s", reason_of(error))
            time.sleep(_RETRY_SECONDS)
        else:
            raise PublishError(
                "MongoDB refused to rename the staged collections, and then the connection was "
                "lost; the collections published before stay"
            )


def finish_switch(db: MongoDatabase) -> bool:
    """Finish the switch that is noted, if any; return false if it was refused before, and undone.

    It can be repeated, also by two processes at once: a rename that is done is skipped. A switch
    that the server refuses, such as over a view, is undone, and the error is raised.
    """
    state = db[STATE].find_one({"_id": LEASE_ID}) or {}
    switch = state.get(SWITCH)
    if switch is None:
        return True
    if switch.get("refused"):
        _undo(db, switch)
        return False
    try:
        for pair in switch["stages"]:
            if not pair.get("in_place"):
                _rename(db, pair["stage"], pair["target"])
            log.info("published %s", pair["target"])
    except OperationFailure:
        refused = switch | {"refused": True}
        _change(db, switch, {"$set": {SWITCH: refused}})
        _undo(db, refused)
        raise
    _keep_previous(db, switch)
    _replay(db, switch)
    earlier, replaced = state.get(REPLACED) or {}, switch.get(REPLACED) or {}
    if replaced and earlier.get("by") == replaced["by"]:  # the same run, by an earlier switch
        generations = {**earlier["generations"], **replaced["generations"]}
        replaced = {**replaced, "generations": generations}
    _change(db, switch, {"$unset": {SWITCH: ""}, "$set": {REPLACED: replaced}})
    return True


def generation_of(db: MongoDatabase, name: str) -> Document:
    """Return the run that wrote a collection, None if no run did, and its number of documents."""
    run_id = names.run_of(db[name])
    return {"run_id": run_id, "documents": db[name].count_documents({"run_id": run_id or ""})}


def replaced_generations(db: MongoDatabase) -> dict[str, Document]:
    """Return what the latest run to publish replaced: a `generation_of` each target."""
    state = db[STATE].find_one({"_id": LEASE_ID}) or {}
    return dict((state.get(REPLACED) or {}).get("generations") or {})


def _rename(db: MongoDatabase, stage: str, target: str) -> None:
    """Rename a collection over its target, unless that is done."""
    if not _exists(db, stage):
        return
    try:
        db[stage].rename(target, dropTarget=True)
    except WriteConcernError as error:
        log.warning("%s is published here, not yet on all members: %s", target, reason_of(error))
    except OperationFailure as error:
        if error.code != _NO_SUCH_COLLECTION:  # else the next holder of the lease did it meanwhile
            raise


def _keep_previous(db: MongoDatabase, switch: Document) -> None:
    """Make the copies of the replaced collections the previous generation."""
    for pair in switch["stages"]:
        try:
            _rename(db, pair["stage"] + PREVIOUS, pair["target"] + PREVIOUS)
        except OperationFailure as error:  # the new generation is live all the same
            log.error("no previous %s is kept: %s", pair["target"], reason_of(error))
            db.drop_collection(pair["stage"] + PREVIOUS)


def _replay(db: MongoDatabase, switch: Document) -> None:
    """Repeat the writes of others during the switch, where MongoDB has change streams."""
    position = switch.get("position")
    if position is None:
        return
    for target, unique in switch["kept"].items():
        try:
            replay(db, position, target, unique, target + PREVIOUS)
        except (OperationFailure, BSONError) as error:  # each try to finish the switch would fail
            why = reason_of(error) if isinstance(error, OperationFailure) else one_line(error)
            log.error("writes of others during the switch may be lost: %s", why)


def _undo(db: MongoDatabase, switch: Document) -> None:
    """Put the replaced collections back, with what others have written since; delete the note."""
    for pair in switch["stages"]:
        previous, target = pair["stage"] + PREVIOUS, pair["target"]
        done = pair.get("in_place") or not _exists(db, pair["stage"])
        if done and _exists(db, previous):
            log.warning("MongoDB refused the rest of a switch: %s is put back", target)
            try:
                if target in names.SHARED:
                    merge = {"into": previous, "whenMatched": "replace"}
                    others = [{"$match": names.WRITTEN_BY_OTHERS}, {"$merge": merge}]
                    db[target].aggregate(others, bypassDocumentValidation=True)
                db[previous].rename(target, dropTarget=True)
            except OperationFailure as error:  # the next training publishes both
                log.error("MongoDB refuses to put %s back: %s", target, reason_of(error))
    _change(db, switch, {"$unset": {SWITCH: ""}})


def _change(db: MongoDatabase, switch: Document, change: Document) -> None:
    """Change the note of this switch, but not of a later one."""
    # Not update_one, the heartbeat's command, so that MongoDB's log separates the two.
    db[STATE].find_one_and_update({"_id": LEASE_ID, SWITCH: switch}, change)


def _exists(db: MongoDatabase, name: str) -> bool:
    return bool(db.list_collection_names(filter={"name": name}))


def recover(db: MongoDatabase) -> None:
    """Finish the noted switch and drop the stages of dead trainings, under the lease."""
    finish_switch(db)
    stages = {"$regex": f"^({'|'.join(names.PUBLISHED)}){re.escape(names.STAGED)}"}
    for name in db.list_collection_names(filter={"name": stages}):
        log.warning("dropping %s, left by a training that died", name)
        db.drop_collection(name)


def stages_of(db: MongoDatabase, run_id: str) -> list[str]:
    """Return the names of the collections that a run has staged and left."""
    name = {"$regex": re.escape(f"{names.STAGED}{run_id}")}
    return db.list_collection_names(filter={"name": name})


def published_runs(db: MongoDatabase) -> set[str]:
    """Return the ids of the runs whose documents are live, or those that a rollback brings back."""
    kept = [*names.PUBLISHED, *(name + PREVIOUS for name in names.PUBLISHED)]
    return {run_id for name in kept if (run_id := names.run_of(db[name]))}
