"""Checks what a training and the service need, and names the remedy for what is amiss."""

import ctypes
import re
import shutil
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pymongo

from recommender.core.errors import RecommenderError
from recommender.core.logs import configure_logging, redact, secrets_of
from recommender.core.mongo import Document, connected, mongo_errors, source_of
from recommender.core.ports import listens
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import Settings, load_settings
from recommender.core.terminal import print_json, print_table
from recommender.runs.ledger import OPEN_STATES, Ledger
from recommender.spark.java import LAPACK_PACKAGE, find_java, java_version
from recommender.spark.session import BESIDE_HEAP_MIB, driver_memory, memory_limit

Outcome = dict[str, Any]

_TIMEOUT_SECONDS = 10.0
_LEAST_FREE_GIB = 1
_GOOD_STATES = (*OPEN_STATES, "succeeded")
# What trainings do to collections; the role readWrite allows all of it.
ACTIONS = {"find", "insert", "update", "remove", "createIndex", "createCollection"}
ACTIONS |= {"dropCollection", "renameCollectionSameDB", "listCollections"}


def outcome(name: str, finding: str, remedy: str = "", exit_code: int = 0) -> Outcome:
    """Return the outcome of a check: with an exit code a problem, else with a remedy a warning."""
    state = "problem" if exit_code else "warning" if remedy else "ok"
    about = {"finding": finding, "remedy": remedy, "exit_code": exit_code}
    return {"name": name, "state": state, **about}


def check_database(settings: Settings) -> Iterator[Outcome]:
    """Check MongoDB's topology, the user's rights, the reviews and the last run."""
    name = settings.mongo.db
    limit = pymongo.timeout(_TIMEOUT_SECONDS)
    with connected(settings.mongo) as db, limit, mongo_errors("checking MongoDB"):
        client, hello = db.client, db.client.admin.command("hello")
        kind = "sharded" if hello.get("msg") == "isdbgrid" else hello.get("setName", "standalone")
        at = ", ".join(f"{host}:{port}" for host, port in sorted(client.nodes))
        replicate = "use a replica set if a backend writes to Recommendations"
        finding = f"version {client.server_info()['version']} at {at}, {kind}"
        yield outcome("MongoDB", finding, replicate if kind == "standalone" else "")
        db.list_collection_names()  # refused if MONGO_URI lacks the credentials
        status = client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
        lacking = ", ".join(sorted(ACTIONS - granted(status["authenticatedUserPrivileges"], name)))
        if not status["authenticatedUsers"]:
            yield outcome("rights", "MongoDB asks for no credentials", "enable its authorization")
        elif lacking:
            yield outcome("rights", f"lacking: {lacking}", f"grant readWrite on {name}", 69)
        else:
            yield outcome("rights", f"readWrite on {name}")
        reviews = source_of(db)["Reviews"].estimated_document_count()
        empty = () if reviews else ("check MONGO_DB, or load reviews by recommender.load", 65)
        yield outcome("reviews", f"about {reviews:,} in {name}.Reviews", *empty)
        run = next(iter(Ledger(db).recent(1)), {"run_id": "none", "state": "yet"})
        finding = " ".join(filter(None, (run["run_id"], run["state"], run.get("error"))))
        see = f"see {run.get('exit_code') or 'crashed'} in the runbook of docs/operations.md"
        remedy = see if "error" in run else "run als_training.py"
        yield outcome("last run", finding, "" if run["state"] in _GOOD_STATES else remedy)


def granted(privileges: Sequence[Document], db: str) -> set[str]:
    """Return the actions that privileges allow on every collection of a database."""
    whole = ({"anyResource": True}, {"db": "", "collection": ""}, {"db": db, "collection": ""})
    return {a for p in privileges if p["resource"] in whole for a in p["actions"]}


def check_spark(settings: Settings) -> Iterator[Outcome]:
    """Check Java, the LAPACK that Spark loads, and the memory beside the driver's heap."""
    java = find_java()
    yield outcome("Java", f"version {java_version(str(java))}, {java}")
    if library := find_library("lapack") or "":
        ctypes.CDLL(library)
        loaded = re.search(r"/\S*liblapack\S*", Path("/proc/self/maps").read_text())
        library = loaded[0] if loaded else library
    install = f"ALS would be faster with OpenBLAS (Debian: apt-get install {LAPACK_PACKAGE})"
    yield outcome("LAPACK", library or "none", "" if "openblas" in library else install)
    heap, limit_mib = driver_memory(settings.spark), memory_limit() // 2**20
    heap_mib = int(heap[:-1]) * 2 ** (10 * "kmgt".index(heap[-1])) // 2**10
    remedy = "" if heap_mib + BESIDE_HEAP_MIB <= limit_mib else "lower SPARK_DRIVER_MEMORY"
    yield outcome("memory", f"{limit_mib:,} MiB, of which Spark's heap is {heap_mib:,}", remedy)


def check_machine(settings: Settings) -> Iterator[Outcome]:
    """Check the folders that are written to and the port of the API."""
    settings.make_folder(settings.log_dir)
    for folder in (settings.log_dir, Path(settings.spark.checkpoint_dir or settings.work_dir)):
        if folder.is_dir():  # checkpoints may be in a cluster's file system
            free = shutil.disk_usage(folder).free / 2**30
            remedy = "" if free >= _LEAST_FREE_GIB else "free some space, or set WORK_DIR"
            yield outcome("disk", f"{free:.1f} GiB free for {folder}", remedy)
    used = listens(settings.api.host, settings.api.port)
    remedy = "stop its program or set PORT, unless this is the service" if used else ""
    yield outcome("port", f"{settings.api.port} is {'in use' if used else 'free'}", remedy)


def examine(settings: Settings) -> Iterator[Outcome]:
    """Yield the outcomes of all checks; what ends a group of checks early is a problem."""
    secrets = secrets_of(settings)
    groups = {"MongoDB": check_database, "Spark": check_spark, "WORK_DIR": check_machine}
    for name, checks in groups.items():
        try:
            yield from checks(settings)
        except RecommenderError as error:
            yield outcome(name, redact(str(error), secrets), exit_code=error.exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the settings and the checks; return the exit code of the first problem, or 0."""
    parser = script_parser(__doc__ or "", *READER_CODES, prog="python -m recommender.doctor")
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    checks, values = list(examine(settings)), settings.public()
    code: int = next(filter(None, (check["exit_code"] for check in checks)), 0)
    sources = settings.sources().items()
    described = [(name, str(values.get(name.lower(), "***")), source) for name, source in sources]
    if arguments.json:
        print_json({"exit_code": code, "checks": checks, "settings": described})
    else:
        print_table("Settings", [row for row in described if row[2] != "default"])
        about = [(c["name"], c["state"], (c["finding"], c["remedy"])) for c in checks]
        rows = [(name, state, "; ".join(filter(None, texts))) for name, state, texts in about]
        print_table("\nChecks", rows)
    return code


if __name__ == "__main__":
    raise SystemExit(run_script(main))
