"""Faults of the service, and several that want to train at once."""

from contextlib import ExitStack
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals

import httpx2 as httpx

from recommender.core.mongo import Document
from tests.faults.catalogue import Fault, hit
from tests.faults.mongod import LONG_SECONDS, Trap
from tests.faults.trainings import BETWEEN, CLUSTERING_BETWEEN, kill
from tests.faults.world import Outcome, Running, World, alive
from tests.support import free_port, jvms
from tests.waiting import at_once, until


def post(url: str) -> int:
    """Ask for a training and return the status of the answer."""
    return httpx.post(f"{url}/train", timeout=LONG_SECONDS).status_code


def one_of(codes: list[int]) -> None:
    """Check that one request started a training and that the others got its run id."""
    assert sorted(codes) == [202] + [409] * (len(codes) - 1), codes


def service_ended(number: Signals, world: World) -> Outcome:
    """End the service by a signal while its training trains."""
    with world.service() as (service, url):
        assert post(url) == 202
        world.runs("train")
        service.send(number)
        return world.outcome(service)


def ended_as_spark_starts(world: World) -> Outcome:
    """Stop the service while its training's JVM starts, when no signal may cut in."""
    with world.service(STOP_GRACE_SECONDS="60") as (service, url):
        assert post(url) == 202
        until(lambda: jvms(service.pid), LONG_SECONDS)
        assert (world.latest() or {})["phase"] in {None, "read", "choose"}
        service.send(SIGTERM)
        return world.outcome(service)


def child_killed(world: World) -> Outcome:
    """Kill a service's training between two switches; the service finishes them."""
    assert BETWEEN.trap
    with world.service() as (service, url), ExitStack() as sleeping:
        with world.mongo.trap(BETWEEN.trap, world.db.name) as caught:
            assert post(url) == 202
            caught()
            # The service sleeps until the trap is away, else its own switch would be caught.
            service.send(SIGSTOP)
            sleeping.callback(service.send, SIGCONT)
            (training,) = (
                member for member in service.family() if member.pid == (world.latest() or {})["pid"]
            )
            training.kill()
            world.mongo.drop_held(BETWEEN.trap.command)
        sleeping.close()
        return of_run(world.ended())


def child_stopped(world: World) -> Outcome:
    """Stop a service's training so that it cannot heed its own time limit: the service ends it."""
    with world.service(TRAIN_TIMEOUT_MINUTES="1", STOP_GRACE_SECONDS="2") as (service, url):
        assert post(url) == 202
        world.runs("train")
        pid = (world.latest() or {})["pid"]
        (training,) = (member for member in service.family() if member.pid == pid)
        training.suspend()
        return of_run(world.ended())


def script_killed(world: World) -> Outcome:
    """Kill a script by hand between two switches; a service that trains nothing finishes them."""
    kill_script = hit(CLUSTERING_BETWEEN, kill, "clustering_training.py")
    with world.service():
        outcome = kill_script(world)
        until(lambda: world.state_of(outcome.run_id) == "crashed", LONG_SECONDS)
        until(lambda: not world.leftovers(), LONG_SECONDS)
        return outcome


def clock_set_back(world: World) -> Outcome:
    """Kill a script by hand, and let its lease end in 2 hours, as by a MongoDB clock set back."""
    kill_script = hit(CLUSTERING_BETWEEN, kill, "clustering_training.py")
    with world.service():
        outcome = kill_script(world)
        world.expire_lease(seconds=-7_200)
        until(lambda: world.state_of(outcome.run_id) == "crashed", LONG_SECONDS)
        until(lambda: not world.leftovers(), LONG_SECONDS)
        return outcome


def of_run(run: Document) -> Outcome:
    """Return a run's outcome as its ledger has it."""
    return Outcome(int(run["exit_code"]), str(run["run_id"]))


def many(world: World, count: int) -> Outcome:
    """Ask a service for ``count`` trainings at once."""
    with world.service() as (_, url):
        one_of(at_once(count, lambda _: post(url)))
        return of_run(world.ended())


def workers(world: World) -> Outcome:
    """Ask four worker processes of one service for twenty trainings at once."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ("--workers", "4", "--host", "127.0.0.1", "--port", str(port))
    service = world.start_module("uvicorn", "model:app", *options)
    until(lambda: alive(url), LONG_SECONDS)
    one_of(at_once(20, lambda _: post(url)))
    run = world.ended()
    service.send(SIGTERM)
    assert service.end() == 0
    return of_run(run)


def replicas(world: World) -> Outcome:
    """Ask two services on one database at once."""
    with world.service() as (_, first), world.service() as (_, second):
        one_of(at_once(10, lambda number: post((first, second)[number % 2])))
        return of_run(world.ended())


def script_beside(world: World) -> Outcome:
    """Run both scripts by hand while a service trains: they are refused, and it goes on."""
    reading = Trap("find", "Reviews", seconds=30)
    with world.service() as (_, url), world.mongo.trap(reading, world.db.name) as caught:
        assert post(url) == 202
        caught()
        run_id = str((world.latest() or {})["run_id"])
        scripts = [world.start(name) for name in ("als_training.py", "clustering_training.py")]
        for script in scripts:
            assert refused_by(script, run_id), script.log()
        return of_run(world.ended())


def refused_by(script: Running, run_id: str) -> bool:
    """Return true if a script ended with 75 and named the run that is in its way."""
    return script.end() == 75 and f"training {run_id} is in progress on " in script.log()


def without_mongod(world: World) -> Outcome:
    """Start a service without MongoDB; it trains as soon as that is back."""
    with world.reader.cut_off():
        world.mongo.kill()
        with world.service() as (_, url):
            assert post(url) == 503
            assert httpx.get(f"{url}/health/ready").status_code == 503
            assert httpx.get(f"{url}/next-training").status_code == 200
            world.mongo.start()
            assert post(url) == 202
            return of_run(world.ended())


FAULTS = [
    Fault(
        "SIGTERM of the service while its training trains",
        lambda world: service_ended(SIGTERM, world),
        0,
        "cancelled",
        "old",
    ),
    Fault(
        "SIGTERM of the service while Spark starts", ended_as_spark_starts, 0, "cancelled", "old"
    ),
    Fault(
        "kill -9 of the service while its training trains",
        lambda world: service_ended(SIGKILL, world),
        137,
        "cancelled",
        "old",
    ),
    Fault(
        "kill -9 of a service's training between Metadata and Clusters",
        child_killed,
        137,
        "crashed",
        "new",
        mixed=True,
    ),
    Fault(
        "kill -9 of a script by hand between Metadata and Clusters, beside a service",
        script_killed,
        137,
        "crashed",
        "new Clusters and Metadata",
        mixed=True,
    ),
    Fault(
        "MongoDB's clock set back 2 hours after kill -9 of a script by hand, beside a service",
        clock_set_back,
        137,
        "crashed",
        "new Clusters and Metadata",
        mixed=True,
    ),
    Fault("a service's training stopped past its time limit", child_stopped, 137, "failed", "old"),
    Fault("two POST /train at once", lambda world: many(world, 2), 0, "succeeded", "new"),
    Fault("twenty POST /train at once", lambda world: many(world, 20), 0, "succeeded", "new"),
    Fault("twenty at once on four workers", workers, 0, "succeeded", "new"),
    Fault("ten at once on two replicas", replicas, 0, "succeeded", "new"),
    Fault("scripts by hand during a service's run", script_beside, 0, "succeeded", "new"),
    Fault("MongoDB down when the service starts", without_mongod, 0, "succeeded", "new"),
]
