"""How a fault is declared: what is done, and what is to become of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tests.faults.mongod import Trap
from tests.faults.world import Outcome, Running, World

Server = Literal["standalone", "replica set", "with users", "small disk"]
Act = Callable[[World, Running], None]


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes
    ----------
    name
        What happens, in a few words.
    do
        Makes it happen and returns what became of the attacked process.
    exit_code
        Expected of that process.
    state
        Expected of its run in the ledger once the next training has begun.
    published
        Which collections are expected to be its run's before that: ``old`` for none, ``new`` for
        all three, or their names; ``restored`` are those that a rollback has brought back.
    finished
        Whether the next training finishes the switch of Recommendations that this one began.
    mixed
        Whether Clusters and Metadata may differ in ``run_id`` until then.
    slow
        Whether it is left to ``make faults``.
    server
        What it happens to.
    """

    name: str
    do: Callable[[World], Outcome]
    exit_code: int
    state: str
    published: str
    finished: bool = False
    mixed: bool = False
    slow: bool = True
    server: Server = "standalone"

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return in_words(self.exit_code, self.state, self.published)


@dataclass(frozen=True)
class Moment:
    """A point in a training that is hit exactly.

    Attributes
    ----------
    name
        The moment in words that follow "kill -9 of the training".
    phase
        The phase that the ledger shows then.
    trap
        The command that the training is caught in; None: as soon as the phase is seen.
    after
        The phase at whose beginning the trap is set; None: before the training starts.
    """

    name: str
    phase: str
    trap: Trap | None = None
    after: str | None = None


def shortly(moment: Moment) -> Moment:
    """Let what is held go on by itself: it comes to a server that may be a secondary yet."""
    assert moment.trap
    return replace(moment, trap=replace(moment.trap, seconds=3.0))


def in_words(exit_code: int, state: str, published: str) -> str:
    """Return an outcome as the table has it."""
    return f"exit {exit_code}, run {state}, {published}"


def hit(
    moment: Moment, act: Act, script: str = "als_training.py", *options: str, **more: str
) -> Callable[[World], Outcome]:
    """Return what starts a training, does something to it at a moment, and waits for its end."""

    def do(world: World) -> Outcome:
        running, run_id = hurt(world)
        return Outcome(running.end(), run_id)

    def hurt(world: World) -> tuple[Running, str]:
        if moment.after is None and moment.trap:
            with world.held(moment.trap, lambda: world.start(script, *options, **more)) as running:
                return running, act_in_phase(world, running)
        running = world.start(script, *options, **more)
        world.reaches(moment.after or moment.phase, running)
        if moment.trap is None:
            return running, act_in_phase(world, running)
        with world.held(moment.trap, lambda: running):
            return running, act_in_phase(world, running)

    def act_in_phase(world: World, running: Running) -> str:
        run = world.latest() or {}
        assert run.get("phase") == moment.phase, "the trap caught another moment"
        act(world, running)
        return str(run["run_id"])

    return do
