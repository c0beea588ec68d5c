"""Every fault that is declared, with real processes and a reader that polls all the time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.all import FAULTS
from tests.faults.catalogue import Fault, in_words
from tests.faults.table import Row, read_table, write_table
from tests.faults.world import Outcome, World
from tests.support import PROJECT

# The quick faults that `make test` injects, one of each kind: killed, cut off, and stepped down.
IN_EVERY_RUN = {
    "kill -9 of the clustering between Metadata and Clusters",
    "the connection cut in the switch of Metadata",
    "step-down of the primary between Metadata and Clusters in their transaction",
}


def marks_of(fault: Fault) -> list[pytest.MarkDecorator]:
    if fault.slow:
        return [pytest.mark.slow]
    return [] if fault.name in IN_EVERY_RUN else [pytest.mark.nightly]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "fault", [pytest.param(fault, id=fault.name, marks=marks_of(fault)) for fault in FAULTS]
)
def test_nothing_published_is_harmed(
    fault: Fault, world: World, record_property: Callable[[str, object], None]
) -> None:
    record_property("fault", fault.name)
    outcome = fault.do(world)
    left = world.end_what_is_left()
    world.reader.catch_up()
    published = world.published(outcome.run_id)
    mixed = world.reader.mixed
    recovery = world.recover()
    left += world.end_what_is_left()
    world.reader.catch_up()
    happened = in_words(outcome.exit_code, world.state_of(outcome.run_id), published)
    record_property("happened", happened)
    record_property("reader", f"{world.reader.polls:,} polls{', mixed' * bool(mixed)}")
    assert not left, "processes were left behind"
    assert dict(world.reader.wrong) == {}
    assert happened == fault.expected, "\n".join(running.log() for running in world.processes)
    assert fault.mixed or not mixed
    check_recovery(world, fault, outcome, recovery)


def check_recovery(world: World, fault: Fault, outcome: Outcome, recovery: str) -> None:
    """The next training publishes, and finds or leaves nothing half-done."""
    assert world.state_of(recovery) == "succeeded"
    for name in ("Clusters", "Metadata"):
        assert world.db[name].distinct("run_id") == [recovery]
    all_new = fault.published in {"new", "restored"}
    switched = fault.finished or all_new or "Recommendations" in fault.published
    expected = (world.restored or outcome.run_id) if switched else world.old
    assert world.db["Recommendations"].distinct("run_id") == [expected]
    assert world.leftovers() == []


def test_the_documentation_has_the_expected_outcome_of_every_fault() -> None:
    rows = read_table(PROJECT / "docs" / "faults.md")
    assert [(row.fault, row.expected) for row in rows.values()] == [
        (fault.name, fault.expected) for fault in FAULTS
    ], "run `make faults`"


def test_writing_the_table_keeps_what_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "faults.md"
    after = "\n## Soak\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    row = Row(FAULTS[0].name, FAULTS[0].expected, "x", "1 polls", "1", "2026-01-01")
    for _ in range(2):
        write_table(file, FAULTS, {row.fault: row})
        if after not in file.read_text():
            file.write_text(file.read_text() + after)
    assert file.read_text().endswith(after)
    assert read_table(file) == {row.fault: row}


def test_each_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert not any("|" in fault.name for fault in FAULTS)
