"""The MongoDB client: its options, and its errors in one line without a password."""

import socket
import traceback
from collections.abc import Iterator
from urllib.parse import quote_plus

import pytest
from pymongo import ReadPreference
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
    source_of,
)
from recommender.core.mongo_collections import copy_indexes
from recommender.core.settings import Settings, load_settings
from recommender.data.users import users_collection

PASSWORDS = ["plain", "p@ss/w%rd:?#", "with space+plus", "%41", "ünï—"]
UNREADABLE_URIS = [
    "mongodb://user:s3cr/et@host/",
    "mongodb://user:s3cr%et@host/",
    "mongodb://us:er:s3cret@host/",
    "mongodb://user:s3cret@host:port/",
    "mongodb://user:s3cret@host:99999/",
    "mongodb://user:s3cret@/",
    "mongodb://user:s3cret@host/?ssl=true&tls=false",
    "mongodb://user:s3cret@host/?tls=true&tlsCAFile=/nope",
    "mongodb://user:s3cret@a,b/?directConnection=true",
    "mongodb+srv://user:s3cret@10.0.0.1/",
    "mongodb:/user:s3cret@host/?a=b",
    "user:s3cret@host:27017",
    "s3cret",
    "",
]

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The address of a port that is bound and does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def as_user(settings: Settings, user: str, password: str) -> Settings:
    uri = settings.mongo.uri.get_secret_value().replace(
        "://", f"://{user}:{quote_plus(password)}@", 1
    )
    name = settings.mongo.db
    return load_settings(mongo_uri=f"{uri}?authSource={name}", mongo_db=name)


def test_an_unreadable_uri_is_a_configuration_error_that_does_not_show_it() -> None:
    for uri in UNREADABLE_URIS:
        with pytest.raises(ConfigurationError) as caught:
            connect(load_settings(mongo_uri=uri).mongo)
        assert "s3c" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__suppress_context__  # pymongo's text may show parts of it


@pytest.mark.parametrize("option", ["w=0", "readConcernLevel=bogus"])
def test_options_that_no_training_can_work_with_are_refused(option: str) -> None:
    with pytest.raises(ConfigurationError, match=option):
        connect(load_settings(mongo_uri=f"mongodb://localhost:1/?{option}").mongo)


def test_a_host_unknown_to_dns_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        connect(load_settings(mongo_uri="mongodb+srv://user:s3cret@nowhere.invalid/").mongo)
    assert "s3c" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_client_has_the_services_name_and_times_with_zones(
    db: MongoDatabase, db_settings: Settings
) -> None:
    assert db.name == db_settings.mongo.db
    assert db.client.options.pool_options.appname == APP_NAME
    assert db.codec_options.tz_aware


def test_a_timeout_in_the_uri_wins() -> None:
    uri = "mongodb://localhost:1/?serverSelectionTimeoutMS=123"
    with connect(load_settings(mongo_uri=uri).mongo) as client:
        assert client.options.server_selection_timeout == 0.123
    with connect(load_settings().mongo) as client:
        assert client.options.server_selection_timeout == TIMEOUT_SECONDS


def test_an_unreachable_server_is_named_in_one_line(closed_port: str) -> None:
    settings = load_settings(
        mongo_uri=f"mongodb://user:s3cret@{closed_port}/?serverSelectionTimeoutMS=300"
    )
    with (
        connect(settings.mongo) as client,
        pytest.raises(DatabaseUnavailableError) as caught,
        mongo_errors("reading"),
    ):
        database(client, settings.mongo)["Reviews"].find_one()
    line = str(caught.value)
    for part in ("reading", closed_port, "MONGO_URI"):
        assert part in line
    for part in ("Topology", "s3cret", "\n"):
        assert part not in line


def test_all_passwords_work(db: MongoDatabase, db_settings: Settings) -> None:
    for number, password in enumerate(PASSWORDS):
        db.command("createUser", f"reader{number}", pwd=password, roles=["read"])
    try:
        for number, password in enumerate(PASSWORDS):
            with connect(as_user(db_settings, f"reader{number}", password).mongo) as client:
                assert database(client, db_settings.mongo)["Reviews"].find_one() is None
    finally:
        db.command("dropAllUsersFromDatabase")


def test_a_refused_password_is_not_shown(db_settings: Settings) -> None:
    for password in PASSWORDS:
        settings = as_user(db_settings, "nobody", password)
        with (
            connect(settings.mongo) as client,
            pytest.raises(DatabaseUnavailableError) as caught,
            mongo_errors("leasing"),
        ):
            database(client, settings.mongo)["TrainingState"].find_one()
        line = str(caught.value)
        assert "leasing" in line
        assert not any(secret in line for secret in secrets_of(settings))
        assert "\n" not in line


def test_a_refusal_quotes_the_server(db: MongoDatabase) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught, mongo_errors("counting"):
        db["Reviews"].find_one({"$nonsense": 1})
    cause = caught.value.__cause__
    assert isinstance(cause, OperationFailure)
    assert (cause.details or {})["errmsg"] in str(caught.value)
    assert str(cause) not in str(caught.value)  # it has the whole answer


def test_a_duplicate_key_is_not_quoted(db: MongoDatabase) -> None:
    insensitive = {"locale": "en", "strength": 1}
    db["Reviews"].create_index("user_id", unique=True, name="theirs", collation=insensitive)
    equal = [{"user_id": "Secret"}, {"user_id": "s\u00e9cret"}]
    db["Copy"].insert_many(list(map(dict, equal)))
    for write in (
        lambda: db["Reviews"].insert_many(equal),
        lambda: copy_indexes(db["Reviews"], db["Copy"]),
    ):
        with pytest.raises(DatabaseUnavailableError) as caught, mongo_errors("x"):
            write()
        assert "cret" not in str(caught.value)
        assert "dup key" not in str(caught.value)


def test_each_kind_of_error_is_one_line() -> None:
    for error, part, unanswered in (
        (OperationFailure("no\nway"), "working: no way", False),
        (BulkWriteError({"writeErrors": []}), "working: batch", False),
        (AutoReconnect("cut\noff, Timeout: 5s"), "working: cut off;", True),
    ):
        with pytest.raises(DatabaseUnavailableError) as caught, mongo_errors("working"):
            raise error
        assert part in str(caught.value)
        assert ("MONGO_URI" in str(caught.value)) == unanswered
        assert "Timeout" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), mongo_errors("working"):
        raise KeyError("x")


def test_one_line_has_no_break_and_nothing_unprintable() -> None:
    for text, line in {
        "plain": "plain",
        "  two\r\n\tlines  \n": "two lines",
        "a\x00b\x1b[31m\x7f\x85\u2028\u202ec": "a b [31m c",
        "ünï 東京 🍜": "ünï 東京 🍜",
        ValueError("an\nerror"): "an error",
        "": "",
        "\ud800": "",
    }.items():
        assert one_line(text) == line


def test_one_line_is_cut_at_its_limit() -> None:
    assert one_line("x" * 10, limit=10) == "x" * 10
    assert one_line("x" * 11, limit=10) == "x" * 9 + "…"
    assert len(one_line("x" * 10_000)) == 500


def test_the_secrets_are_the_uri_and_the_password_in_each_form() -> None:
    for password in PASSWORDS:
        uri = f"mongodb://user:{quote_plus(password)}@h1:1,h2:2/db?tls=true"
        secrets = secrets_of(load_settings(mongo_uri=uri, api_key="key"))
        assert {uri, quote_plus(password), password, "key"} <= set(secrets)
        assert secrets == sorted(secrets, key=len, reverse=True)
    for uri, password in {
        "mongodb://u:a+b%25@h/": "a+b%",
        "mongodb://u:a+c%25@h/": "a c%",
        "mongodb://u:p@ss/w@h/": "p@ss/w",
        "mongodb://user:s3cret@host/?appName=a@b": "s3cret",
        "mongodb://host/?tls=true&tlsCertificateKeyFilePassword=s3cret": "s3cret",
    }.items():
        assert password in secrets_of(load_settings(mongo_uri=uri))


def test_a_short_password_or_none_is_no_secret() -> None:
    for uri in ("mongodb://host/", "mongodb://user@host/"):
        assert secrets_of(load_settings(mongo_uri=uri)) == []
    uri = "mongodb://user:a@host/"
    assert secrets_of(load_settings(mongo_uri=uri, api_key="ab")) == [uri]


@pytest.mark.usefixtures("clean_environment")
def test_only_the_backends_collections_follow_the_options_of_the_uri() -> None:
    settings = load_settings(mongo_uri="mongodb://h/?readPreference=secondary")
    with connect(settings.mongo) as client:
        db = database(client, settings.mongo)
        assert db["Clusters"].read_preference == ReadPreference.PRIMARY
        for collection in (source_of(db)["Restaurants"], users_collection(db)):
            assert collection.read_preference.name == "Secondary"
