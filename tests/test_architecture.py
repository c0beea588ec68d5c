"""The house: who may import whom, what an import may do, and what must be written down."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent

# A file imports only from lower floors; what stands on one floor does not know each other.
FLOORS: list[set[str]] = [
    {
        *("dists", "recommender.core.errors", "recommender.evaluation.metrics"),
        *("recommender.als.bias", "recommender.bodies", "recommender.als.bson_encoder"),
        "recommender.als.fold_in",
        *(
            "recommender.clustering.stable_ids",
            "recommender.clustering.scoring",
            "recommender.runs.summary",
        ),
        "recommender.als.top_n",
    },
    {
        *(
            "recommender",
            "recommender.core.child_process",
            "recommender.core.ports",
            "recommender.data.ratings",
        ),
        *(
            "recommender.core.settings",
            "recommender.clustering.reader_checks",
            "recommender.clustering.spherical_kmeans",
        ),
    },
    {
        *(
            "recommender.als.tuning.space",
            "recommender.als.model",
            "recommender.core.mongo",
            "recommender.evaluation.splitting",
        ),
        "recommender.clustering.spectral",
    },
    {
        *(
            "recommender.core.mongo_collections",
            "recommender.demo.embedded_mongod",
            "recommender.als.evaluate",
            "recommender.runs.lease",
        ),
        *(
            "recommender.runs.ledger",
            "recommender.clustering.empty_clusters",
            "recommender.core.script",
        ),
        *("recommender.als.choose_alpha", "recommender.weights"),
    },
    {
        *(
            "recommender.publishing.transaction",
            "recommender.publishing.staging",
            "recommender.als.tuning.report",
        ),
        "recommender.als.tuning.search",
        *("recommender.runs.log_file", "recommender.runs.switch"),
    },
    {
        *(
            "recommender.demo.synthetic_city",
            "recommender.spark.java",
            "recommender.service.problems",
            "recommender.data.reviews",
        ),
        *(
            "recommender.data.restaurants",
            "recommender.service.schedule",
            "recommender.publishing.publish",
        ),
    },
    {
        *(
            "recommender.service.scheduler",
            "recommender.demo.commands",
            "recommender.als.published_factors",
            "recommender.load",
        ),
        *(
            "recommender.spark.reviews_source",
            "recommender.data.users",
            "recommender.service.recovery",
        ),
        *(
            "recommender.clustering.published_model",
            "recommender.als.recommend",
            "recommender.runs.run",
        ),
        "recommender.spark.session",
    },
    {"recommender.service.launcher", "recommender.publishing.gate"},
    {"recommender.als.fit", "recommender.clustering.user_matrix"},
    {"recommender.clustering.fit", "recommender.als.tuning.cli"},
    {"recommender.clustering.documents", "recommender.clustering.elbow"},
    {"clustering_training", "clus_test", "clus_counter"},
    {"als_training"},
    {"model"},
]

FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def module_files() -> dict[str, Path]:
    """Return the project's modules, tests and benchmarks left out."""
    package = {
        f"recommender.{path.stem}".removesuffix(".__init__"): path
        for path in (PROJECT / "recommender").glob("*.py")
    }
    return {path.stem: path for path in PROJECT.glob("*.py")} | package


MODULES = module_files()


def imports_of(name: str) -> set[str]:
    """Return what a module imports anywhere in its text, in full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            assert node.module
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (parts & set(MODULES)) or {node.module}
    return found


def loaded_by(name: str) -> set[str]:
    """Return what is loaded once a fresh Python has imported the module."""
    program = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_every_module_has_a_floor() -> None:
    assert set(FLOOR_OF) == set(MODULES), "give the new module its floor in FLOORS"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_imports_only_from_lower_floors(name: str) -> None:
    ours = imports_of(name) & set(MODULES)
    assert {other for other in ours if FLOOR_OF[other] >= FLOOR_OF[name]} == set()


@pytest.mark.parametrize(
    "name", ["model", "clustering_training", "clus_test", "clus_counter", "recommender.load"]
)
def test_only_the_spark_job_loads_pyspark(name: str) -> None:
    loaded = loaded_by(name)
    assert name in loaded
    assert not {module for module in loaded if module.partition(".")[0] in {"pyspark", "py4j"}}


def test_the_files_that_import_pyspark_are_few_and_known() -> None:
    users = {name for name in MODULES if any(i.startswith("pyspark") for i in imports_of(name))}
    known = ("fitting", "mongo_source", "searching", "spark")
    assert users == {"als_training", *(f"recommender.{name}" for name in known)}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("dists", {"numpy", "scipy", "sklearn"}),
        ("recommender.als.top_n", {"numpy", "scipy"}),
        ("recommender.evaluation.metrics", {"numpy", "scipy"}),
        ("recommender.clustering.stable_ids", {"numpy", "scipy"}),
        ("recommender.clustering.scoring", {"numpy", "scipy", "recommender"}),
        ("recommender.clustering.spherical_kmeans", {"numpy", "scipy", "dists"}),
        ("recommender.clustering.spectral", {"numpy", "scipy", "dists", "recommender"}),
        ("recommender.clustering.empty_clusters", {"numpy", "scipy", "dists", "recommender"}),
        ("recommender.core.child_process", set()),
    ],
)
def test_what_only_computes_imports_nothing_else(name: str, allowed: set[str]) -> None:
    roots = {imported.partition(".")[0] for imported in imports_of(name)}
    assert roots - set(sys.stdlib_module_names) <= allowed


INERT = """
    import os, sys, threading
    happened = []
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    WATCHED = {
        "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo",
        "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.kill",
        "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.putenv",
        "tempfile.mkstemp", "tempfile.mkdtemp",
    }

    def watch(event, arguments):
        if event == "open" and arguments[2] & WRITING and arguments[0] != os.devnull:
            happened.append((event, str(arguments[0])))
        elif event in WATCHED:
            happened.append((event, repr(arguments)[:200]))

    # What libraries do when they are loaded is theirs; they are loaded before the watch begins.
    for library in LIBRARIES:
        __import__(library)
    sys.addaudithook(watch)
    threading.Thread.start = lambda thread: happened.append(("thread", thread.name))
    before = (os.environ.copy(), os.getcwd(), threading.active_count())
    for name in NAMES:
        __import__(name)
    assert (os.environ.copy(), os.getcwd(), threading.active_count()) == before
    import signal
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    import logging
    assert logging.root.handlers == []
    assert not happened, happened
"""


def test_every_module_is_inert_on_import(tmp_path: Path) -> None:
    libraries = sorted({i for name in MODULES for i in imports_of(name)} - set(MODULES))
    program = textwrap.dedent(INERT).replace("LIBRARIES", repr(libraries))
    program = program.replace("NAMES", repr(sorted(MODULES)))
    done = subprocess.run(
        [
            sys.executable,
            "-B",
            "-c",
            f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{program}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def requirements(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (PROJECT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_has_a_lower_and_an_upper_bound(name: str) -> None:
    found = requirements(name)
    assert found
    for requirement in found:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators in ({">=", "<"}, {"=="}), str(requirement)


def test_what_the_service_imports_is_what_it_requires() -> None:
    names = {"scikit-learn": "sklearn", "python-dotenv": "dotenv"}
    required = {r.name for r in requirements("requirements.txt")}
    modules = {names.get(name, name.replace("-", "_")) for name in required}
    own = {module.partition(".")[0] for module in MODULES}
    roots = {i.partition(".")[0] for name in MODULES for i in imports_of(name)}
    # These come with a requirement: bson with pymongo, starlette with fastapi, threadpoolctl with
    # scikit-learn.
    within = {"bson", "starlette", "threadpoolctl"}
    assert roots - own - set(sys.stdlib_module_names) - within <= modules
