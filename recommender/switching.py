"""Puts what is staged in the place of what is published, whoever dies on the way.

A switch is noted in the lease's document first (`recommender.lease.Lease.begin_switch`): only the
lease's holder can begin one, and whoever holds the lease next finds it and does the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from pymongo.errors import AutoReconnect, OperationFailure, WriteConcernError

from recommender.errors import PublishError
from recommender.lease import COLLECTION as STATE
from recommender.lease import LEASE_ID, SWITCH
from recommender.mongo import Document, MongoDatabase, reason_of

PREVIOUS = ".previous"

_NO_SUCH_COLLECTION = 26
_SWITCH_SECONDS = 30.0
_RETRY_SECONDS = 0.2

log = logging.getLogger(__name__)


def switch_of(targets: Mapping[str, str]) -> Document:
    """Return the note of a switch.

    Parameters
    ----------
    targets
        The target of each stage, in the order of the switch. What a target held before may lie
        beside, under the stage's name and :data:`PREVIOUS`, to be put back.
    """
    return {"stages": [{"stage": stage, "target": target} for stage, target in targets.items()]}


def is_switching(db: MongoDatabase, stage: str) -> bool:
    """Say whether a stage is part of the switch that is noted."""
    return bool(db[STATE].count_documents({"_id": LEASE_ID, f"{SWITCH}.stages.stage": stage}))


def finish_whatever_it_takes(db: MongoDatabase) -> None:
    """Finish the switch, also over a connection that is lost for as long as a server restarts.

    Raises
    ------
    pymongo.errors.PyMongoError
        If the server refuses it, or stays away.
    PublishError
        If the server had refused it before the connection was lost.
    """
    deadline = time.monotonic() + _SWITCH_SECONDS
    while True:
        try:
            if not finish_switch(db):
                raise PublishError(
                    "MongoDB refused to switch what was staged, and then the connection was lost; "
                    "what was published before stays"
                )
        except AutoReconnect as error:
            if time.monotonic() > deadline:
                raise
            log.warning("cut off in the switch, trying again: %s", reason_of(error))
            time.sleep(_RETRY_SECONDS)
        else:
            return


def finish_switch(db: MongoDatabase) -> bool:
    """Do what is left of the switch that is noted, if one is.

    It can be done twice, and by two at once: a rename that is done already is left alone. A switch
    that the server refuses, as over a view, is undone.

    Returns
    -------
    bool
        False if what was left was to undo it, as the server had refused it before.

    Raises
    ------
    pymongo.errors.PyMongoError
        If the server refuses it now, or does not answer.
    """
    switch = (db[STATE].find_one({"_id": LEASE_ID}) or {}).get(SWITCH)
    if switch is None:
        return True
    if switch.get("refused"):
        _undo(db, switch)
        return False
    try:
        for pair in switch["stages"]:
            _rename(db, pair["stage"], pair["target"])
    except OperationFailure:
        refused = switch | {"refused": True}
        _change(db, switch, {"$set": {SWITCH: refused}})
        _undo(db, refused)
        raise
    _change(db, switch, {"$unset": {SWITCH: ""}})
    return True


def _change(db: MongoDatabase, switch: Document, change: Document) -> None:
    """Change the note of this switch, not of what another has begun since.

    By a command of another name than the heartbeat's, so that a log tells the two apart.
    """
    db[STATE].find_one_and_update({"_id": LEASE_ID, SWITCH: switch}, change)


def _rename(db: MongoDatabase, stage: str, target: str) -> None:
    """Put a stage in its target's place, unless that is done already."""
    if not _exists(db, stage):
        return
    try:
        db[stage].rename(target, dropTarget=True)
    except WriteConcernError as error:
        log.warning("%s is published here, not yet on all members: %s", target, reason_of(error))
    except OperationFailure as error:
        if error.code != _NO_SUCH_COLLECTION:
            raise
        return  # whoever took the lease over did it meanwhile
    log.info("published %s", target)


def _undo(db: MongoDatabase, switch: Document) -> None:
    """Put back what was switched before the server refused to go on, and forget the switch."""
    for pair in switch["stages"]:
        previous = pair["stage"] + PREVIOUS
        if not _exists(db, pair["stage"]) and _exists(db, previous):
            log.warning("MongoDB refused the rest of a switch: %s is put back", pair["target"])
            try:
                db[previous].rename(pair["target"], dropTarget=True)
            except OperationFailure as error:  # the next training publishes both
                log.error("%s cannot be put back: %s", pair["target"], error.details)
    _change(db, switch, {"$unset": {SWITCH: ""}})


def _exists(db: MongoDatabase, name: str) -> bool:
    return bool(db.list_collection_names(filter={"name": name}))
