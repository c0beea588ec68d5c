"""Faults of MongoDB and of the way to it: killed, stepped down, cut off, refusing."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tests.faults.catalogue import Fault, Moment, hit, shortly
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


def with_options(options: str) -> Callable[[World], Outcome]:
    """Return what trains with options in MONGO_URI."""

    def do(world: World) -> Outcome:
        uri = f"{world.mongo.uri}&{options}"
        return world.outcome(world.start("als_training.py", MONGO_URI=uri))

    return do


def uri_options() -> list[Fault]:
    """Return options of MONGO_URI that would make the service read stale state."""
    options = (
        "w=1&readConcernLevel=majority",
        "readPreference=secondaryPreferred",
        "readPreference=nearest&readConcernLevel=linearizable&retryWrites=false&w=1",
    )
    return [
        Fault(
            f"MONGO_URI with {one}",
            with_options(one),
            0,
            "succeeded",
            "new",
            server="replica set",
        )
        for one in options
    ]


def hang_and_stop(world: World, training: Running) -> None:
    """Let mongod hang, stop the training by SIGTERM, and restart mongod when that has ended."""
    with world.reader.cut_off():
        os.kill(world.mongo.pid, signal.SIGSTOP)
        try:
            training.send(signal.SIGTERM)
            training.end()
        finally:
            world.mongo.kill()  # else it would still do what it was sent
            world.mongo.start()


def upserts(world: World) -> Outcome:
    """Upsert documents of the backend's from two threads while a training runs."""
    training = world.start("als_training.py")
    acknowledged: dict[str, int] = {}
    live = world.db["Recommendations"]

    def write(writer: int) -> None:
        for number in itertools.count():
            if training.process.poll() is not None:
                return
            user = f"guest {writer} {number % 50}"
            change = {"$set": {"recommendations": [{"gmap_id": "here"}], "number": number}}
            live.update_one({"user_id": user}, change, upsert=True)
            acknowledged[user] = number
            time.sleep(0.002)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, writer) for writer in range(2)]
        outcome = world.outcome(training)
        for writer in writers:
            writer.result()
    numbers = {d["user_id"]: d["number"] for d in live.find({"number": {"$exists": True}})}
    assert numbers == acknowledged
    return outcome


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
    *uri_options(),
    Fault(
        "SIGTERM of the training while MongoDB hangs",
        hit(Moment("", "train"), hang_and_stop, STOP_GRACE_SECONDS="2"),
        143,
        "crashed",
        "old",
    ),
    Fault(
        "upserts of the backend during a training",
        upserts,
        0,
        "succeeded",
        "new",
        server="replica set",
    ),
    Fault("a view in the place of Recommendations", view, 70, "failed", "old"),
]
