"""The one way to MongoDB: errors of one line that say what to do, and no password in any."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterator
from urllib.parse import quote_plus

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure

from recommender.core.errors import ConfigurationError, DatabaseUnavailableError
from recommender.core.logs import one_line, secrets_of
from recommender.core.mongo import (
    APP_NAME,
    TIMEOUT_SECONDS,
    MongoDatabase,
    connect,
    database,
    mongo_errors,
)
from recommender.core.settings import Settings, load_settings

PASSWORDS = ["plain", "p@ss/w%rd:?#", "with space+plus", "%41", "ünï—"]


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Where nothing answers: a port that is bound and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:s3cr/et@host/",
        "mongodb://user:s3cr%et@host/",
        "mongodb://us:er:s3cret@host/",
        "mongodb://user:s3cret@host:port/",
        "mongodb://user:s3cret@host:99999/",
        "mongodb://user:s3cret@/",
        "mongodb://user:s3cret@host/?ssl=true&tls=false",
        "mongodb://user:s3cret@a,b/?directConnection=true",
        "mongodb+srv://user:s3cret@10.0.0.1/",
        "mongodb:/user:s3cret@host/?a=b",
        "",
    ],
)
@pytest.mark.usefixtures("clean_environment")
def test_a_uri_that_cannot_be_read_is_a_configuration_error_that_does_not_show_it(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="MONGO_URI cannot be read as") as caught:
        connect(load_settings(mongo_uri=uri))
    assert "s3c" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__suppress_context__  # what pymongo says may show parts of it
    assert "percent-encoded" in str(caught.value)


def test_the_client_says_who_it_is_and_gives_times_with_their_zone(
    db: MongoDatabase, db_settings: Settings
) -> None:
    assert db.name == db_settings.mongo.db
    assert db.client.options.pool_options.appname == APP_NAME
    assert db.codec_options.tz_aware


def test_no_server_is_told_with_what_to_do(nowhere: str, clean_environment: object) -> None:
    settings = load_settings(
        mongo_uri=f"mongodb://user:s3cret@{nowhere}/?serverSelectionTimeoutMS=300"
    )
    with (
        connect(settings) as client,
        pytest.raises(DatabaseUnavailableError) as caught,
        mongo_errors("reading Reviews"),
    ):
        database(client, settings)["Reviews"].find_one()
    told = str(caught.value)
    assert told.startswith("MongoDB did not answer while reading Reviews: ")
    assert nowhere in told
    assert told.endswith("does it run where MONGO_URI says?")
    assert "Topology" not in told
    assert "s3cret" not in told
    assert "\n" not in told
    assert caught.value.exit_code == 69


@pytest.mark.usefixtures("clean_environment")
def test_a_timeout_in_the_uri_wins_over_ours() -> None:
    uri = "mongodb://localhost:1/?serverSelectionTimeoutMS=123"
    with connect(load_settings(mongo_uri=uri)) as client:
        assert client.options.server_selection_timeout == 0.123
    with connect(load_settings()) as client:
        assert client.options.server_selection_timeout == TIMEOUT_SECONDS


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_user_gets_in_whatever_the_password_holds(
    db: MongoDatabase, db_settings: Settings, password: str
) -> None:
    db.command("createUser", "reader", pwd=password, roles=["read"])
    try:
        with connect(as_user(db_settings, "reader", password)) as client:
            assert database(client, db_settings)["Reviews"].find_one() is None
    finally:
        db.command("dropAllUsersFromDatabase")


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_refused_password_is_told_in_a_line_without_it(
    db_settings: Settings, password: str
) -> None:
    settings = as_user(db_settings, "nobody", password)
    with (
        connect(settings) as client,
        pytest.raises(DatabaseUnavailableError, match="Authentication failed") as caught,
        mongo_errors("taking the lease"),
    ):
        database(client, settings)["TrainingState"].find_one()
    told = str(caught.value)
    assert told.startswith("MongoDB refused taking the lease: ")
    assert not any(secret in told for secret in secrets_of(settings))
    assert "\n" not in told


def as_user(settings: Settings, user: str, password: str) -> Settings:
    uri = settings.mongo.uri.get_secret_value().replace(
        "://", f"://{user}:{quote_plus(password)}@", 1
    )
    return load_settings(
        mongo_uri=f"{uri}?authSource={settings.mongo.db}", mongo_db=settings.mongo.db
    )


def test_what_the_server_refuses_is_told_in_its_words(db: MongoDatabase) -> None:
    with (
        pytest.raises(DatabaseUnavailableError, match=r"^MongoDB refused counting: ") as caught,
        mongo_errors("counting"),
    ):
        db["Reviews"].find_one({"$nonsense": 1})
    assert "unknown top level operator: $nonsense" in str(caught.value)
    assert "full error" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OperationFailure)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OperationFailure("no\nway"), "MongoDB refused working: no way"),
        (BulkWriteError({"writeErrors": []}), "MongoDB refused working: batch op errors occurred"),
        (AutoReconnect("cut\noff, Timeout: 5s"), "MongoDB did not answer while working: cut off; "),
    ],
)
def test_each_kind_of_error_is_told_in_one_line(error: Exception, told: str) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught, mongo_errors("working"):
        raise error
    assert str(caught.value).startswith(told)
    assert "Timeout" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), mongo_errors("working"):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("  two\r\n\tlines  \n", "two lines"),
        ("a\x00b\x1b[31m\x7f\x85\u2028\u202ec", "a b [31m c"),
        ("ünï 東京 🍜", "ünï 東京 🍜"),
        (ValueError("an\nerror"), "an error"),
        ("", ""),
        ("\ud800", ""),
    ],
)
def test_one_line_has_no_break_and_nothing_unprintable(text: object, line: str) -> None:
    assert one_line(text) == line


def test_one_line_is_cut_at_its_limit() -> None:
    assert one_line("x" * 10, limit=10) == "x" * 10
    assert one_line("x" * 11, limit=10) == "x" * 9 + "…"
    assert len(one_line("x" * 10_000)) == 500


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("password", PASSWORDS)
def test_the_secrets_are_the_uri_and_the_password_in_each_form(password: str) -> None:
    uri = f"mongodb://user:{quote_plus(password)}@h1:1,h2:2/db?tls=true"
    secrets = secrets_of(load_settings(mongo_uri=uri, api_key="k"))
    assert {uri, quote_plus(password), password, "k"} <= set(secrets)
    assert secrets == sorted(secrets, key=len, reverse=True)


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("uri", ["mongodb://host/", "mongodb://user@host/"])
def test_a_uri_without_a_password_is_no_secret(uri: str) -> None:
    assert secrets_of(load_settings(mongo_uri=uri)) == []


@pytest.mark.usefixtures("clean_environment")
def test_a_plus_in_a_password_may_stand_for_itself_or_for_a_space() -> None:
    found = secrets_of(load_settings(mongo_uri="mongodb://u:a+b%25@h/"))
    assert {"a+b%", "a b%"} <= set(found)


@pytest.mark.usefixtures("clean_environment")
def test_a_password_that_makes_the_uri_unreadable_is_a_secret_all_the_same() -> None:
    assert "p@ss/w" in secrets_of(load_settings(mongo_uri="mongodb://u:p@ss/w@h/"))


@pytest.mark.usefixtures("clean_environment")
def test_unacknowledged_writes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="w=0"):
        connect(load_settings(mongo_uri="mongodb://localhost:1/?w=0"))


def test_a_certificate_that_is_not_there_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        connect(load_settings(mongo_uri="mongodb://u:s3cret@h/?tls=true&tlsCAFile=/nope"))


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:s3cret@host/?appName=a@b",
        "mongodb://host/?tls=true&tlsCertificateKeyFilePassword=s3cret",
    ],
)
def test_every_password_of_a_uri_is_a_secret(uri: str) -> None:
    assert "s3cret" in secrets_of(load_settings(mongo_uri=uri))


@pytest.mark.usefixtures("clean_environment")
def test_a_host_that_dns_does_not_know_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        connect(load_settings(mongo_uri="mongodb+srv://user:s3cret@nowhere.invalid/"))
    assert "s3c" not in str(caught.value)
    assert caught.value.__suppress_context__
