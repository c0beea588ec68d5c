"""Faults of a rollback: killed before, inside and after its switch, refused, and repeated."""

from collections.abc import Callable

import clustering_training
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.data.reviews import read_ratings
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs.run import training_run
from tests.faults.catalogue import Fault, Moment, hit
from tests.faults.mongod import Trap
from tests.faults.trainings import RENAME, kill_and_expire
from tests.faults.world import Outcome, World

PHASE = "roll back"
BEFORE = Moment("before its switch", PHASE, Trap("createIndexes"))
# Metadata is renamed, then Clusters, Recommendations, and their previous generations.
INSIDE = Moment("between Metadata and Clusters", PHASE, Trap(RENAME, skip=1))
AFTER = Moment(
    "after its switch, not yet noted",
    PHASE,
    Trap("findAndModify", "TrainingState", skip=1),  # the lease before
)
IN_THE_TRANSACTION = Moment("in its transaction", PHASE, Trap("update", "Clusters"))
AFTER_THE_TRANSACTION = Moment("after its transaction, before Recommendations", PHASE, Trap(RENAME))


def publish_a_second_generation(world: World) -> None:
    """Publish all three collections as a training does; a rollback restores the earlier run's."""
    db = world.db
    lists = list(db[RECOMMENDATIONS].find({"run_id": world.old}, {"_id": 0}))
    with training_run(world.settings) as run:
        with staged(db, RECOMMENDATIONS, run.run_id) as stage:
            stage.insert({**each, "run_id": run.run_id} for each in lists)
            stage.seal(len(lists))
            publish(db, stage, lease=run.lease)
        clustering_training.train(run, read_ratings(world.settings))
    world.restored, world.old = world.old, run.run_id


def killed(moment: Moment) -> Callable[[World], Outcome]:
    kill = hit(moment, kill_and_expire, "als_training.py", "--rollback")

    def do(world: World) -> Outcome:
        publish_a_second_generation(world)
        return kill(world)

    return do


def repeated(times: int) -> Callable[[World], Outcome]:
    def do(world: World) -> Outcome:
        publish_a_second_generation(world)
        outcomes = [world.outcome(world.start(*ROLLBACK)) for _ in range(times)]
        assert {outcome.exit_code for outcome in outcomes} == {0}
        return outcomes[-1]

    return do


def during_a_training(world: World) -> Outcome:
    publish_a_second_generation(world)
    with training_run(world.settings):
        return Outcome(world.start(*ROLLBACK).end(), None)


def half_dropped(world: World) -> Outcome:
    publish_a_second_generation(world)
    world.db["Clusters.previous"].drop()
    return world.outcome(world.start(*ROLLBACK))


ROLLBACK = ("als_training.py", "--rollback")
NAME = "kill -9 of the rollback {}".format
CRASHED = (137, "crashed")

FAULTS = [
    Fault(NAME(BEFORE.name), killed(BEFORE), *CRASHED, "old", slow=False),
    Fault(
        NAME(INSIDE.name),
        killed(INSIDE),
        *CRASHED,
        "restored Metadata",
        finished=True,
        mixed=True,
        slow=False,
    ),
    Fault(NAME(AFTER.name), killed(AFTER), *CRASHED, "restored", slow=False),
    Fault(
        NAME(IN_THE_TRANSACTION.name),
        killed(IN_THE_TRANSACTION),
        *CRASHED,
        "old",
        slow=False,
        server="replica set",
    ),
    Fault(
        NAME(AFTER_THE_TRANSACTION.name),
        killed(AFTER_THE_TRANSACTION),
        *CRASHED,
        "restored Clusters and Metadata",
        finished=True,
        slow=False,
        server="replica set",
    ),
    Fault("a rollback", repeated(1), 0, "succeeded", "restored", slow=False),
    Fault("two rollbacks, one after the other", repeated(2), 0, "succeeded", "old", slow=False),
    Fault("a rollback during a training", during_a_training, 75, "none", "old", slow=False),
    Fault("a rollback of a half-dropped generation", half_dropped, 66, "failed", "old", slow=False),
]
