"""The house: which room may import which, which files compute only, and what imports may do."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent

# What each room of recommender/ may import from; load and doctor are rooms of one file.
ROOMS = {
    "core": "",
    "data": "core",
    "evaluation": "core data",
    "runs": "core",
    "publishing": "core data runs",
    "spark": "core data recommender",
    "als": "core data evaluation runs publishing spark",
    "clustering": "core data evaluation runs publishing als dists",
    "service": "core data runs publishing",
    "demo": "core data",
    "load": "core data",
    "doctor": "core runs spark",
}
# The service reads what the trainings publish, and asks whether there is a Java.
READERS = {
    *("recommender.als.published_factors", "recommender.clustering.published_model"),
    "recommender.spark.java",
}
IMPORT_PYSPARK = {
    *("als_training", "recommender.als.fit", "recommender.als.tuning.cli"),
    *("recommender.spark.reviews_source", "recommender.spark.session"),
}
# Arrays in, arrays out: no database, no settings, no Spark.
NUMERIC = {
    "recommender.core.threads",
    *("dists", "recommender.als.bias", "recommender.als.fold_in", "recommender.als.item_item"),
    *("recommender.als.spectral_embedding", "recommender.als.sweeps", "recommender.als.top_n"),
    *("recommender.evaluation.metrics", "recommender.clustering.stable_ids"),
    *("recommender.clustering.empty_clusters", "recommender.clustering.scoring"),
    *("recommender.clustering.embedding_clusters", "recommender.clustering.spherical_kmeans"),
}


def module_files() -> dict[str, Path]:
    """Return the project's modules by name, without tests and benchmarks."""
    files = [*PROJECT.glob("*.py"), *(PROJECT / "recommender").rglob("*.py")]
    parts = {path: path.relative_to(PROJECT).with_suffix("").parts for path in files}
    return {".".join(names).removesuffix(".__init__"): path for path, names in parts.items()}


MODULES = module_files()


def imports_of(name: str) -> set[str]:
    """Return the full names of the modules that a module imports anywhere in its text."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            assert node.module
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= (parts & set(MODULES)) or {node.module}
    return imported


def room_of(module: str) -> str:
    """Return the room of a module of ours; a module at the top is its own room."""
    return module.removeprefix("recommender.").partition(".")[0]


def test_every_room_has_its_rule_and_its_docstring() -> None:
    inside = {name for name in MODULES if name.startswith("recommender.")}
    assert {room_of(name) for name in inside} == set(ROOMS)
    for path in (PROJECT / "recommender").rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_rooms_below(room: str) -> None:
    allowed = {room, *ROOMS[room].split()}
    for name in MODULES:
        if name.startswith("recommender.") and room_of(name) == room:
            ours = imports_of(name) & set(MODULES)
            readers = READERS if room == "service" else set()
            assert {other for other in ours - readers if room_of(other) not in allowed} == set()


def test_no_module_imports_a_private_name_of_another() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{name} imports {private} of {node.module}"


def test_there_is_no_circle_of_imports() -> None:
    left = {name: imports_of(name) & set(MODULES) for name in MODULES}
    while ready := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in ready}
    assert left == {}


def test_few_modules_import_pyspark() -> None:
    users = {name for name in MODULES if any(i.startswith("pyspark") for i in imports_of(name))}
    assert users == IMPORT_PYSPARK


def test_numeric_modules_import_nothing_else() -> None:
    libraries = {*sys.stdlib_module_names, "numpy", "scipy", "sklearn", "threadpoolctl"}
    for name in NUMERIC:
        others = {i for i in imports_of(name) if i.partition(".")[0] not in libraries}
        assert others <= NUMERIC, name


def test_only_the_als_training_loads_pyspark() -> None:
    names = ["model", "clustering_training", "clus_test", "clus_counter", "recommender.load"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded >= set(names)
    roots = {module.partition(".")[0] for module in loaded}
    assert not roots & {"pyspark", "py4j", "matplotlib"}


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
    named = requirements(name)
    assert named
    for requirement in named:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators in ({">=", "<"}, {"=="}), str(requirement)


def test_what_the_service_imports_is_what_it_requires() -> None:
    names = {"scikit-learn": "sklearn", "python-dotenv": "dotenv", "dnspython": "dns"}
    required = {r.name for r in requirements("requirements.txt")}
    modules = {names.get(name, name.replace("-", "_")) for name in required}
    own = {module.partition(".")[0] for module in MODULES}
    roots = {i.partition(".")[0] for name in MODULES for i in imports_of(name)}
    # bson comes with pymongo; Spark imports pandas.
    assert roots - own - set(sys.stdlib_module_names) - {"bson"} == modules - {"pandas"}
