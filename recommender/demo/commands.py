"""The commands of the Makefile: a training and the service, by default on a synthetic city.

``python -m recommender.demo run`` trains once and serves, ``train`` trains once. If ``MONGO_URI``
is set, they use that MongoDB and start none, and ``city`` writes the city there.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from recommender.core.child_process import Guarded
from recommender.core.errors import ModelRejectedError
from recommender.core.logs import configure_logging
from recommender.core.mongo import connected, mongo_errors
from recommender.core.ports import LOOPBACK, check_port_is_free, listens
from recommender.core.script import TRAINING_CODES, script_parser
from recommender.core.settings import Settings, load_settings
from recommender.core.signals import Cancelled
from recommender.demo.embedded_mongod import POLL_SECONDS, EmbeddedMongo
from recommender.demo.synthetic_city import City, write_city

PROJECT = Path(__file__).resolve().parents[2]

_SERVER_GRACE_SECONDS = 10.0
_DEMO_CACHE_GB = 0.5
_STOPPED_BY_SIGNAL = {0, 130, 143}


def main(argv: Sequence[str] | None = None, scripts: Path = PROJECT) -> int:
    """Run a command with the scripts of a folder, and return its exit code."""
    commands = {"run": _run, "train": _train, "city": _write}
    description = (__doc__ or "").partition("\n\n")[2]
    prog = "python -m recommender.demo"
    parser = script_parser(description, *TRAINING_CODES, prog=prog, json=False)
    parser.add_argument("command", choices=commands)
    group = parser.add_argument_group("the synthetic city (only if Reviews is empty)")
    for name in ("users", "restaurants", "reviews", "seed"):
        default = {"default": getattr(City, name), "help": "default %(default)s"}
        group.add_argument(f"--{name}", type=int, metavar="N", **default)
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    try:
        city = City(arguments.users, arguments.restaurants, arguments.reviews, arguments.seed)
    except ValueError as error:
        parser.error(str(error))
    return commands[arguments.command](settings, city, scripts)


def _run(settings: Settings, city: City, scripts: Path) -> int:
    """Train once, then serve until a signal stops it."""
    check_port_is_free(settings.api.host, settings.api.port)
    embedded = "uri" not in settings.mongo.model_fields_set
    with _database(settings, city) as settings:
        code = _run_training(settings, scripts)
        if code == ModelRejectedError.exit_code:
            _print("The gate rejected the new model; the model published before is served.")
        elif code:
            _print(f"The training failed with exit code {code}; the API is not started.")
            return code
        with _child(settings, scripts / "model.py") as server:
            try:
                return _serve(settings, server, embedded)
            except Cancelled:
                _print("Stopping.")
                code = server.stop()
                return 0 if code in _STOPPED_BY_SIGNAL else code


def _train(settings: Settings, city: City, scripts: Path) -> int:
    """Train once."""
    with _database(settings, city) as settings:
        return _run_training(settings, scripts)


def _write(settings: Settings, city: City, _scripts: Path) -> int:
    """Write the city into the MongoDB of ``MONGO_URI``."""
    _fill(settings, city, f"{settings.mongo.db}.Reviews")
    return 0


@contextmanager
def _database(settings: Settings, city: City) -> Iterator[Settings]:
    """Yield settings of a running MongoDB: theirs, or else an embedded one with a city in it."""
    if "uri" in settings.mongo.model_fields_set:
        yield settings
        return
    folder = settings.work_dir / "demo"
    with EmbeddedMongo(folder, cache_gb=_DEMO_CACHE_GB) as mongo:
        settings = settings.with_values({"mongo_uri": SecretStr(mongo.uri)})
        _fill(settings, city, folder)
        yield settings


def _fill(settings: Settings, city: City, where: str | Path) -> None:
    """Write a city, unless there are reviews; ``where`` is the place to empty for a new one."""
    with connected(settings.mongo) as db, mongo_errors("looking for reviews"):
        if reviews := db["Reviews"].estimated_document_count():
            _print(f"Using the {reviews:,} reviews in {where}; remove it for a new city.")
        else:
            size = f"{city.users:,} users and {city.restaurants:,} restaurants"
            _print(f"Generating a city of {size}.")
            _print(f"It has {write_city(db, city, settings.reviews.fields):,} reviews.")
            db["Reviews"].create_index(settings.reviews.user_field)  # for the read API


def _run_training(settings: Settings, scripts: Path) -> int:
    with _child(settings, scripts / "als_training.py") as training:
        return training.wait()


def _child(settings: Settings, script: Path) -> Guarded:
    return Guarded(
        [sys.executable, script],
        grace_seconds=settings.schedule.stop_grace_seconds + _SERVER_GRACE_SECONDS,
        env={**os.environ, "MONGO_URI": settings.mongo.uri.get_secret_value()},
    )


def _serve(settings: Settings, server: Guarded, embedded: bool) -> int:
    """Print the next steps once the server listens; return its exit code when it ends."""
    host = settings.api.host
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - not listened on
    while server.poll() is None and not listens(host, settings.api.port):
        time.sleep(POLL_SECONDS)
    if server.poll() is None:
        _print(*_next_steps(settings, host, embedded))
    return server.wait()


def _next_steps(settings: Settings, host: str, embedded: bool) -> list[str]:
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.api.port}"
    key = ' -H "X-API-Key: $API_KEY"' if settings.api.key else ""
    python = os.path.relpath(sys.executable)
    uri = f"MONGO_URI={settings.mongo.uri.get_secret_value()} " if embedded else ""
    with connected(settings.mongo) as db, mongo_errors("looking for a user"):
        document = db["Recommendations"].find_one()
    user = str(document["user_id"]) if document else "USER_ID"
    return [
        "",
        f"Serving on {url} until Ctrl-C. Next, in another terminal:",
        f"  curl {url}/health/ready",
        f"  curl {url}/next-training",
        f"  curl -X POST{key} {url}/train",
        f"  curl{key} {url}/runs",
        f"  {uri}{python} clus_test.py {shlex.quote(user)}",
        "",
    ]


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
