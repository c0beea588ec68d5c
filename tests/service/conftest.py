"""The API in this process, for the tests of the service."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from fastapi.testclient import TestClient

import model
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from tests.support import set_environment


@pytest.fixture
def configure(db_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return partial(set_environment, monkeypatch, db_settings)


@pytest.fixture
def client(configure: Callable[..., None], db: MongoDatabase) -> Iterator[TestClient]:
    """The API in this process, without a key, with a schedule of the default interval."""
    configure()
    with TestClient(model.create_app()) as test_client:
        yield test_client
