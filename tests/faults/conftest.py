import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recommender.core.mongo import Document
from recommender.core.settings import load_settings
from tests.faults.all import FAULTS
from tests.faults.catalogue import Fault, Server
from tests.faults.machines import small_disk
from tests.faults.mongod import FaultyMongo, with_users
from tests.faults.table import Row, today, write_table
from tests.faults.world import World, template, world_in

EXPECTED = {fault.name: fault for fault in FAULTS}
Content = dict[str, list[Document]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table", type=Path, help="write what happened to each fault to this file"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--write-table", None)
    if file and not hasattr(config, "workerinput"):  # the workers' reports come to one place
        config.pluginmanager.register(TableWriter(config.rootpath / file))


class TableWriter:
    """Gathers what happened from the tests' reports and writes the table at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        fault = EXPECTED.get(str(properties.get("fault")))
        if report.when != "call" or fault is None:
            return
        happened, reader = str(properties.get("happened", "")), str(properties.get("reader", ""))
        if report.skipped and isinstance(report.longrepr, tuple):
            happened = report.longrepr[2]
        elif report.failed:
            happened = f"FAILED {happened}"
        seconds = f"{report.duration:.0f}"
        self._rows[fault.name] = Row(fault.name, fault.expected, happened, reader, seconds, today())

    def pytest_sessionfinish(self) -> None:
        write_table(self._file, FAULTS, self._rows)


class Servers:
    """The servers that faults happen to, each started when it is first asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._started: dict[Server, FaultyMongo] = {}

    def get(self, kind: Server) -> FaultyMongo:
        if kind not in self._started:
            self._started[kind] = self._stack.enter_context(self._make(kind))
        return self._started[kind]

    def _make(self, kind: Server) -> FaultyMongo:
        folder = self._folder / kind
        if kind == "with users":
            return with_users(folder)
        if kind == "small disk":
            self._stack.enter_context(small_disk(folder, "size=512m,nr_inodes=2000"))
        return FaultyMongo(folder, replica_set=kind == "replica set")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("mongod"), stack)


@pytest.fixture(scope="session")
def content(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Document]]:
    settings = load_settings(
        mongo_uri=servers.get("standalone").uri,
        mongo_db="template",
        work_dir=tmp_path_factory.mktemp("template"),
    )
    return template(settings)


@pytest.fixture
def world(
    fault: Fault,
    servers: Servers,
    content: Content,
    clean_environment: Path,
) -> Iterator[World]:
    """A database with a published model and a reader, on the server that the fault asks for."""
    settings = load_settings(
        mongo_db=f"fault-{uuid.uuid4().hex}", work_dir=clean_environment / "work"
    )
    with world_in(servers.get(fault.server), settings, content) as opened:
        yield opened
