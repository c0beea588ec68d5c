"""The MongoDB client, its two databases, and its errors as one line with advice."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
from dns.exception import DNSException
from pymongo import MongoClient, ReadPreference
from pymongo.database import Database
from pymongo.errors import ConfigurationError as MongoConfigurationError
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from recommender.core.errors import ConfigurationError, DatabaseUnavailableError
from recommender.core.logs import one_line
from recommender.core.settings import MongoSettings

Document = dict[str, Any]
Client = MongoClient[Document]
MongoDatabase = Database[Document]

APP_NAME = "restaurant-recommender"
QUICK_READ_SECONDS = 2.0  # less than what probes wait
_URI_FORM = (
    "MONGO_URI is not of the form mongodb[+srv]://[user:password@]host[:port]/[?options]; "
    "in a user name or password, '@', ':', '/' and '%' must be percent-encoded"
)
_READ_CONCERNS = {None, "local", "available", "majority", "linearizable", "snapshot"}
TIMEOUT_SECONDS = 5.0  # to find a server, unless MONGO_URI has serverSelectionTimeoutMS


def connect(mongo: MongoSettings) -> Client:
    """Return a client for MongoDB; it connects when it is first used.

    If ``MONGO_URI`` is invalid or has ``w=0``, it raises `ConfigurationError` without the URI; if
    DNS does not resolve a ``mongodb+srv`` host, `DatabaseUnavailableError`.
    """
    uri = mongo.uri.get_secret_value()
    if "/" not in uri:  # PyMongo would take it for the name of a host
        raise ConfigurationError(_URI_FORM) from None
    options: dict[str, Any] = {"appname": APP_NAME, "tz_aware": True}
    if "serverselectiontimeoutms" not in uri.lower():
        options["serverSelectionTimeoutMS"] = round(TIMEOUT_SECONDS * 1000)
    try:
        client: Client = MongoClient(uri, **options)
    except (MongoConfigurationError, ValueError, TypeError) as error:
        if isinstance(error.__cause__, DNSException):
            raise DatabaseUnavailableError(
                f"the host of MONGO_URI was not found by DNS: {one_line(error.__cause__)}"
            ) from None
        raise ConfigurationError(_URI_FORM) from None
    except OSError as error:
        raise ConfigurationError(f"MONGO_URI names an unreadable file: {error.strerror}") from None
    problem = None if client.write_concern.acknowledged else "w=0, which hides failed writes"
    if client.read_concern.level not in _READ_CONCERNS:
        problem = f"an unknown readConcernLevel={client.read_concern.level}"
    if problem:
        client.close()
        raise ConfigurationError(f"MONGO_URI has {problem}; change or remove that option")
    return client


def database(client: Client, mongo: MongoSettings) -> MongoDatabase:
    """Return the settings' database, read at the primary and written to the majority.

    So the service reads its own writes; the options of ``MONGO_URI`` do not apply.
    """
    return client.get_database(
        mongo.db,
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("local"),
        write_concern=WriteConcern("majority"),
    )


@contextmanager
def connected(mongo: MongoSettings) -> Iterator[MongoDatabase]:
    """Connect, and yield the `database`; close the client after the block."""
    with connect(mongo) as client:
        yield database(client, mongo)


def source_of(db: MongoDatabase) -> MongoDatabase:
    """Return the database with ``MONGO_URI``'s options, to read the backend's collections."""
    return db.client[db.name]


@contextmanager
def mongo_errors(doing: str) -> Iterator[None]:
    """Raise `DatabaseUnavailableError` for pymongo's errors while ``doing`` a step, in one line."""
    try:
        yield
    except OperationFailure as error:
        raise DatabaseUnavailableError(f"MongoDB refused {doing}: {reason_of(error)}") from error
    except PyMongoError as error:
        reason = f"MongoDB did not answer while {doing}: {reason_of(error)}"
        raise DatabaseUnavailableError(f"{reason}; does it run where MONGO_URI says?") from error


@contextmanager
def quick_read(doing: str, seconds: float | None = None) -> Iterator[None]:
    """Do as `mongo_errors`; queries fail after ``seconds``, two by default, if MongoDB hangs."""
    with mongo_errors(doing), pymongo.timeout(seconds or QUICK_READ_SECONDS):
        yield


def reason_of(error: PyMongoError) -> str:
    """Return the error on one line, without the driver's list of servers or what documents hold."""
    details = (error.details or {}) if isinstance(error, OperationFailure) else {}
    first = (details.get("writeErrors") or [details])[0]
    text = first.get("errmsg") or str(error).partition(", Timeout:")[0]
    return one_line(text.partition(" dup key:")[0])
