"""Faults of MongoDB and of the way to it: killed, stepped down, cut off, refusing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.faults.catalogue import Fault, hit, shortly
from tests.faults.mongod import Trap
from tests.faults.trainings import (
    BEFORE_ALL,
    BETWEEN,
    IN_THE_TRANSACTION,
    READING,
    RENAME,
    STAGING,
)
from tests.faults.world import Outcome, Running, World

CUT = (("closeConnection", True),)
REFUSED = (("errorCode", 13),)
NOT_BY_ALL = (("writeConcernError", {"code": 64, "errmsg": "waiting for replication timed out"}),)


def lose_mongod(world: World, training: Running) -> None:
    """Kill mongod; it comes back when the training has ended."""
    with world.reader.cut_off():
        world.mongo.kill()
        training.end()
        world.mongo.start()


def restart_mongod(world: World, _training: Running) -> None:
    world.restart_mongod()


def step_down(world: World, _training: Running) -> None:
    world.step_down()


def losses() -> list[Fault]:
    """Return mongod killed, and back when the training has given up."""
    name = "mongod killed {}, back later".format
    return [
        Fault(name("while it is read"), hit(READING, lose_mongod), 69, "crashed", "old"),
        Fault(name("while it is staged to"), hit(STAGING, lose_mongod), 69, "crashed", "old"),
        Fault(
            name("before the first switch"),
            hit(BEFORE_ALL, lose_mongod),
            69,
            "crashed",
            "old",
            finished=True,
        ),
        Fault(
            name(BETWEEN.name),
            hit(BETWEEN, lose_mongod),
            69,
            "crashed",
            "new Recommendations and Metadata",
            mixed=True,
        ),
    ]


def restarts() -> list[Fault]:
    """Return mongod killed, and back at once."""
    name = "mongod killed {}, back at once".format
    return [
        Fault(name("while it is read"), hit(READING, restart_mongod), 0, "succeeded", "new"),
        Fault(name("while it is staged to"), hit(STAGING, restart_mongod), 69, "failed", "old"),
        Fault(
            name("before the first switch"), hit(BEFORE_ALL, restart_mongod), 0, "succeeded", "new"
        ),
        Fault(
            name(BETWEEN.name),
            hit(BETWEEN, restart_mongod),
            0,
            "succeeded",
            "new",
            mixed=True,
        ),
    ]


def step_downs() -> list[Fault]:
    """Return the primary of a replica set stepping down, and up again."""
    moments = (
        ("while it is read", READING),
        ("while it is staged to", STAGING),
        ("before the first switch", BEFORE_ALL),
    )
    return [
        *(
            Fault(
                f"step-down of the primary {when}",
                hit(shortly(moment), step_down),
                0,
                "succeeded",
                "new",
                server="replica set",
            )
            for when, moment in moments
        ),
        Fault(
            f"step-down of the primary {IN_THE_TRANSACTION.name}",
            hit(shortly(IN_THE_TRANSACTION), step_down, "clustering_training.py"),
            0,
            "succeeded",
            "new Clusters and Metadata",
            server="replica set",
            slow=False,
        ),
    ]


def caught(trap: Trap, script: str = "als_training.py") -> Callable[[World], Outcome]:
    """Return what trains with a trap set until the training is in it."""

    def do(world: World) -> Outcome:
        with world.mongo.trap(trap, world.db.name) as is_caught:
            training = world.start(script)
            is_caught()
        return world.outcome(training)

    return do


def cuts() -> list[Fault]:
    """Return switches that the server or the way to it cuts short."""
    cut = Trap(RENAME, seconds=0, reply=CUT)
    clustering = "clustering_training.py"
    clustered = "new Clusters and Metadata"
    return [
        Fault(
            "the connection cut in the switch of Recommendations",
            caught(cut),
            0,
            "succeeded",
            "new",
        ),
        Fault(
            "the connection cut in the switch of Metadata",
            caught(cut, clustering),
            0,
            "succeeded",
            clustered,
            slow=False,
        ),
        Fault(
            "the connection cut in the switch of Clusters",
            caught(replace(cut, skip=1), clustering),
            0,
            "succeeded",
            clustered,
            mixed=True,
        ),
        Fault(
            "a switch that is done but not acknowledged",
            caught(replace(cut, reply=NOT_BY_ALL), clustering),
            0,
            "succeeded",
            clustered,
            slow=False,
        ),
        Fault(
            "a switch that the server refuses",
            caught(replace(cut, reply=REFUSED), clustering),
            69,
            "failed",
            "old",
            slow=False,
        ),
    ]


def view(world: World) -> Outcome:
    """Train where Recommendations is a view of another collection."""
    with world.reader.paused():
        world.db["Recommendations"].rename("Source")
        world.db.create_collection("Recommendations", viewOn="Source", pipeline=[])
    return world.outcome(world.start("als_training.py"))


FAULTS = [
    *losses(),
    *restarts(),
    *step_downs(),
    *cuts(),
    Fault("a view in the place of Recommendations", view, 69, "failed", "old"),
]
