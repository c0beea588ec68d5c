"""Faults of the training itself: killed, paused, cut off, out of memory."""

from dataclasses import replace
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from tests.faults.catalogue import Fault, Moment, hit, shortly
from tests.faults.mongod import LONG_SECONDS, Trap
from tests.faults.world import Outcome, Running, World

RENAME = "renameCollection"

READING = Moment("while it reads", "read", Trap("find", "Reviews"))
STAGING = Moment("while it stages recommendations", "recommend", Trap("insert"), "train")
PHASES = (
    READING,
    Moment("while it chooses", "choose"),
    Moment("while it trains", "train"),
    Moment("while it evaluates", "evaluate", Trap("update", "TrainingRuns", skip=2), "train"),
    Moment("while it refits", "refit"),
    STAGING,
    Moment(
        "while it checks what it staged", "publish recommendations", Trap("createIndexes"), "train"
    ),
)
CHAINED = (
    Moment("while it clusters", "cluster", Trap("find", "Metadata", skip=1)),  # hindsight
    Moment(
        "while it evaluates the clusters",
        "evaluate clusters",
        Trap("update", "TrainingRuns", skip=10),
        "refit",
    ),
    Moment("with the clusters staged", "publish clusters", Trap("find", "Metadata", skip=3)),
    Moment("before the switch of Metadata", "publish clusters", Trap(RENAME, skip=2)),
)
BEFORE_ALL = Moment("before the first switch", "publish recommendations", Trap(RENAME))
# Recommendations and its previous generation, then Metadata.
BETWEEN = Moment("between Metadata and Clusters", "publish clusters", Trap(RENAME, skip=3))
AFTER_ALL = Moment(
    "after the last switch, not yet noted",
    "publish clusters",
    Trap("findAndModify", "TrainingState", skip=2),  # the lease, Recommendations, the pair
)
# The same for the clustering alone, which needs no Spark.
CLUSTERING_BETWEEN = Moment("between the two", "publish clusters", Trap(RENAME, skip=1))
# The same where both are replaced in one transaction, Metadata first.
IN_THE_TRANSACTION = Moment(
    "between Metadata and Clusters in their transaction",
    "publish clusters",
    Trap("update", "Clusters"),
)

HANGS_MINUTES = "1.5"
MANY = 2_000


def kill(_world: World, training: Running) -> None:
    training.send(SIGKILL)


def end(_world: World, training: Running) -> None:
    training.send(SIGTERM)


def kill_jvm(_world: World, training: Running) -> None:
    (jvm,) = training.named("java")
    jvm.kill()


def exhaust_the_heap(world: World) -> Outcome:
    """Train with a rank at which one task's normal equations exceed the heap."""
    training = world.start("als_training.py", ALS_RANK="14000", SPARK_DRIVER_MEMORY="512m")
    outcome = world.outcome(training)
    assert "OutOfMemoryError" in training.log(), training.log()
    return outcome


def pause_past_the_lease(world: World, training: Running) -> None:
    """Stop it as a machine that sleeps, let another training publish, and wake it up."""
    training.send_all(SIGSTOP)
    world.mongo.catch_no_more()  # else it would catch the other training, too
    world.recover()
    training.send_all(SIGCONT)


def wait_for_its_end(_world: World, training: Running) -> None:
    training.end()


def hang_jvm(_world: World, training: Running) -> None:
    """Let the JVM hang, and the training in it, until the time limit ends both."""
    (jvm,) = training.named("java")
    jvm.suspend()
    training.end()


def rejected(world: World) -> Outcome:
    """Train where the live recommendations are for many more users than there are now."""
    entries = (world.db["Recommendations"].find_one({"run_id": world.old}) or {})["recommendations"]
    with world.reader.more_users(MANY):
        world.db["Recommendations"].insert_many(
            {"user_id": f"moved away {n}", "recommendations": entries, "run_id": world.old}
            for n in range(MANY)
        )
    training = world.start("als_training.py")
    outcome = world.outcome(training)
    assert "GATE_MIN_USERS_SHARE" in training.log(), training.log()
    return outcome


def clustering_rejected(world: World) -> Outcome:
    """Cluster where the live clusters are of many more users than there are now."""
    figures = world.db["Metadata"].find_one({"_id": "kmeans_clusters"}) or {}
    more = {"$set": {"sizes": [MANY] * len(figures["sizes"])}}
    world.db["Metadata"].update_one({"_id": "kmeans_clusters"}, more)
    clustering = world.start("clustering_training.py")
    outcome = world.outcome(clustering)
    assert "GATE_MIN_USERS_SHARE" in clustering.log(), clustering.log()
    as_it_was = {"$set": {"sizes": figures["sizes"]}}
    world.db["Metadata"].update_one({"_id": "kmeans_clusters"}, as_it_was)
    return outcome


def kill_and_expire(world: World, training: Running) -> None:
    training.send(SIGKILL)
    world.expire_lease()


def kills() -> list[Fault]:
    """Return kill -9 in each phase and between each two switches."""
    name = "kill -9 of the training {}".format
    recommended = "new Recommendations"
    return [
        *(Fault(name(m.name), hit(m, kill), 137, "crashed", "old") for m in PHASES),
        Fault(name(BEFORE_ALL.name), hit(BEFORE_ALL, kill), 137, "crashed", "old", finished=True),
        *(Fault(name(m.name), hit(m, kill), 137, "crashed", recommended) for m in CHAINED),
        Fault(
            name(BETWEEN.name),
            hit(BETWEEN, kill),
            137,
            "crashed",
            "new Recommendations and Metadata",
            mixed=True,
        ),
        Fault(name(AFTER_ALL.name), hit(AFTER_ALL, kill), 137, "crashed", "new"),
        Fault(
            "kill -9 of the clustering between Metadata and Clusters",
            hit(CLUSTERING_BETWEEN, kill_and_expire, "clustering_training.py"),
            137,
            "crashed",
            "new Metadata",
            mixed=True,
            slow=False,
        ),
        Fault(
            f"kill -9 of the clustering {IN_THE_TRANSACTION.name}",
            hit(IN_THE_TRANSACTION, kill_and_expire, "clustering_training.py"),
            137,
            "crashed",
            "old",
            server="replica set",
        ),
    ]


def pauses() -> list[Fault]:
    """Return what pauses a holder past its lease: another has trained when it goes on."""
    published = "another's Clusters and Metadata"
    # Each command is done before the lease ends; it is the answer that comes to a sleeper.
    carrying = Moment(
        "while it carries over what the backend wrote",
        "publish recommendations",
        Trap("find", "Recommendations", skip=4, seconds=3),
    )
    deciding = Moment(
        "between looking at its stage and renaming it",
        "publish recommendations",
        Trap("listCollections", skip=5, seconds=3),
        "refit",
    )
    training = Moment("while it trains", "train")
    name = "the training stopped past its lease {}, and woken".format
    return [
        Fault(name(training.name), hit(training, pause_past_the_lease), 75, "crashed", published),
        Fault(name(carrying.name), hit(carrying, pause_past_the_lease), 75, "crashed", published),
        Fault(
            name(deciding.name),
            hit(deciding, pause_past_the_lease),
            75,
            "crashed",
            f"new Recommendations, {published}",
        ),
        Fault(
            f"the clustering stopped past its lease {IN_THE_TRANSACTION.name}, and woken",
            hit(shortly(IN_THE_TRANSACTION), pause_past_the_lease, "clustering_training.py"),
            75,
            "crashed",
            published,
            server="replica set",
        ),
    ]


def others() -> list[Fault]:
    """Return the other ways for a training to end early."""
    training = Moment("while it trains", "train")
    return [
        Fault("SIGTERM of the training", hit(training, end), 143, "cancelled", "old"),
        Fault("SIGTERM of the training while it reads", hit(READING, end), 143, "cancelled", "old"),
        Fault("kill -9 of the JVM alone", hit(training, kill_jvm), 70, "failed", "old"),
        Fault(
            "the JVM's heap exhausted",
            exhaust_the_heap,
            70,
            "failed",
            "old",
        ),
    ]


def hangs() -> list[Fault]:
    """Return what makes a training take longer than it may."""
    reading = replace(READING, trap=Trap("find", "Reviews", seconds=LONG_SECONDS))
    training = Moment("while it trains", "train")
    limit = {"TRAIN_TIMEOUT_MINUTES": HANGS_MINUTES}
    return [
        Fault(
            "MongoDB hangs past the training's time limit while it is read",
            hit(reading, wait_for_its_end, **limit),
            124,
            "failed",
            "old",
        ),
        Fault(
            "the JVM hangs past the training's time limit",
            hit(training, hang_jvm, **limit),
            124,
            "failed",
            "old",
        ),
    ]


def rejections() -> list[Fault]:
    """Return what the gate does not let through."""
    return [
        Fault("the gate rejects the recommendations", rejected, 76, "rejected", "old"),
        Fault(
            "the gate rejects the clusters", clustering_rejected, 76, "rejected", "old", slow=False
        ),
    ]


FAULTS = [*kills(), *pauses(), *others(), *hangs(), *rejections()]
