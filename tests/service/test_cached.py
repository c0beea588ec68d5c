"""What is published, in memory: loaded once, and again after the next publication."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event, get_ident

from recommender.als.published_factors import PublishedFactors, load_factors
from recommender.core.mongo import MongoDatabase
from recommender.service.cached import CachedUntilPublished
from tests.support import some_factors


def test_one_thread_loads_new_factors_while_others_use_the_old_ones(
    db: MongoDatabase,
) -> None:
    loading, go_on, loads = Event(), Event(), []

    def slow(db: MongoDatabase) -> PublishedFactors | None:
        loads.append(get_ident())
        loading.set()
        assert go_on.wait(30)
        return load_factors(db)

    live = CachedUntilPublished(db, "item_factors", slow)

    def run_id() -> str | None:
        factors = live.get()
        return factors.run_id if factors else None

    with ThreadPoolExecutor(4) as pool:
        db["Metadata"].insert_one(some_factors("r1"))
        first = [pool.submit(run_id) for _ in range(4)]  # none to use yet: all wait for one
        assert loading.wait(30)
        go_on.set()
        assert [one.result(30) for one in first] == ["r1"] * 4
        assert len(loads) == 1
        loading.clear()
        go_on.clear()
        db["Metadata"].replace_one({"_id": "item_factors"}, some_factors("r2"))
        second = pool.submit(run_id)
        assert loading.wait(30)
        assert [run_id() for _ in range(3)] == ["r1"] * 3
        go_on.set()
        assert second.result(30) == "r2"
    assert run_id() == "r2"
    assert len(loads) == 2
