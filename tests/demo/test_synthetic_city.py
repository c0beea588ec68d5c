import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from bson import Int64
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.preprocessing import normalize

from recommender.core.errors import DataError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.demo import synthetic_city
from recommender.demo.synthetic_city import (
    CUISINES,
    NEIGHBOURHOODS,
    City,
    Population,
    populate,
    review_blocks,
    write_city,
)

SMALL = City(users=300, restaurants=60, reviews=2_000, seed=3)
SEVERAL_BLOCKS = City(users=45_000, restaurants=500, reviews=200_000, seed=1, tastes=10)


@dataclass
class AllReviews:
    population: Population
    user: NDArray[np.int64]
    restaurant: NDArray[np.int64]
    rating: NDArray[np.int8]
    time: NDArray[np.int64]

    @property
    def near(self) -> Any:
        home = self.population.home[self.population.taste[self.user]]
        return np.array(NEIGHBOURHOODS)[home] == self.of_restaurants("neighbourhood")

    @property
    def favourite(self) -> Any:
        favourite = self.population.favourite[self.population.taste[self.user]]
        return np.array(CUISINES)[favourite] == self.of_restaurants("cuisine")

    def of_restaurants(self, field: str) -> Any:
        values = np.array([document[field] for document in self.population.restaurants])
        return values[self.restaurant]


def all_reviews(city: City) -> AllReviews:
    population = populate(city)
    blocks = list(review_blocks(population))
    return AllReviews(
        population,
        *(
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("user", "restaurant", "rating", "time")
        ),
    )


@pytest.fixture(scope="module", params=[0, 1])
def reviews(request: pytest.FixtureRequest) -> AllReviews:
    return all_reviews(City(seed=request.param))


@pytest.fixture(scope="module")
def many() -> AllReviews:
    return all_reviews(SEVERAL_BLOCKS)


def test_the_same_seed_gives_the_same_city(many: AllReviews) -> None:
    again = all_reviews(SEVERAL_BLOCKS)
    for name in ("user", "restaurant", "rating", "time"):
        np.testing.assert_array_equal(getattr(many, name), getattr(again, name))
    assert many.population.user_ids.tolist() == again.population.user_ids.tolist()
    assert many.population.restaurants == again.population.restaurants


def test_another_seed_gives_another_city() -> None:
    one, other = all_reviews(SMALL), all_reviews(City(300, 60, 2_000, seed=4))
    assert not np.array_equal(one.restaurant, other.restaurant)
    assert one.population.user_ids.tolist() != other.population.user_ids.tolist()


def test_the_city_has_the_size_of_its_arguments(many: AllReviews) -> None:
    assert len(many.user) == pytest.approx(SEVERAL_BLOCKS.reviews, rel=0.05)
    assert np.array_equal(np.unique(many.user), np.arange(SEVERAL_BLOCKS.users))
    assert many.restaurant.min() >= 0
    assert many.restaurant.max() < SEVERAL_BLOCKS.restaurants


def test_no_user_rates_a_restaurant_twice(many: AllReviews, reviews: AllReviews) -> None:
    for city in (many, reviews):
        pairs = list(zip(city.user.tolist(), city.restaurant.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


def test_ratings_are_stars_with_a_mean_of_about_4_2(reviews: AllReviews, many: AllReviews) -> None:
    for city in (reviews, many):
        assert set(np.unique(city.rating)) == {1, 2, 3, 4, 5}
        assert city.rating.mean() == pytest.approx(4.2, abs=0.15)


def test_times_are_ms_of_five_years(reviews: AllReviews) -> None:
    years = reviews.time.astype("datetime64[ms]").astype("datetime64[Y]").astype(int) + 1970
    assert set(years) <= {2018, 2019, 2020, 2021, 2022, 2023, 2024}
    assert len(set(years)) >= 5


def test_activity_and_popularity_have_heavy_tails(reviews: AllReviews) -> None:
    for counts in (np.bincount(reviews.user), np.bincount(reviews.restaurant)):
        ordered = np.sort(counts)[::-1]
        top_tenth = ordered[: len(ordered) // 10].sum() / ordered.sum()
        assert top_tenth > 0.3
        assert ordered[0] > 8 * np.median(ordered)


def test_choice_follows_taste(reviews: AllReviews) -> None:
    assert reviews.near.mean() > 3 / len(NEIGHBOURHOODS)
    assert reviews.favourite.mean() > 3 / len(CUISINES)


def test_rating_follows_taste_and_strictness(reviews: AllReviews) -> None:
    rating, favourite, near = reviews.rating, reviews.favourite, reviews.near
    assert rating[favourite].mean() > rating[~favourite].mean() + 0.2
    assert rating[near].mean() > rating[~near].mean() + 0.05
    strict = reviews.population.strictness[reviews.user]
    assert rating[strict > 1].mean() < rating[strict < -1].mean() - 0.3


def test_clusters_find_the_planted_tastes(reviews: AllReviews) -> None:
    taste = reviews.population.taste
    vectors = np.zeros((len(taste), reviews.population.city.restaurants))
    vectors[reviews.user, reviews.restaurant] = reviews.rating
    active = np.bincount(reviews.user) >= 8
    labels = KMeans(12, n_init=1, random_state=0).fit_predict(normalize(vectors[active]))
    assert normalized_mutual_info_score(taste[active], labels) > 0.4


def test_ids_and_names_are_distinct() -> None:
    population = populate(City(users=3_000, restaurants=60_000, reviews=3_000))
    assert len(set(population.user_ids)) == 3_000
    assert all(re.fullmatch(r"1\d{20}", user_id) for user_id in population.user_ids)
    assert len(set(population.gmap_ids)) == 60_000
    assert len({document["name"] for document in population.restaurants}) == 60_000
    assert all(re.fullmatch(r"0x[0-9a-f]+:0x[0-9a-f]+", i) for i in population.gmap_ids)


def test_tiny_cities_are_valid() -> None:
    cases: list[tuple[int, int, int]] = [(1, 1, 1), (1, 400, 50), (50, 1, 50), (3, 2, 3)]
    for users, restaurants, reviews in cases:
        city = all_reviews(City(users, restaurants, reviews))
        assert len(set(city.user)) == users
        assert city.restaurant.max() < restaurants


def test_an_invalid_size_is_an_error_that_names_it() -> None:
    cases: list[tuple[dict[str, int], str]] = [
        ({"users": 0}, "users"),
        ({"seed": -1}, "seed"),
        ({"tastes": 1_000}, "tastes=1000"),
        ({"reviews": 10}, "reviews=10.* 5000"),
        ({"users": 10, "reviews": 10_000}, "reviews=10000.* 10 .* 1000"),
    ]
    for numbers, message in cases:
        with pytest.raises(ValueError, match=message):
            City(**numbers)


def test_the_written_city_is_the_generated_one(db: MongoDatabase, db_settings: Settings) -> None:
    expected = all_reviews(SMALL)
    count = write_city(db, SMALL, db_settings.reviews.fields)
    reviews = list(db["Reviews"].find({}, {"_id": 0}))
    assert count == len(reviews) == len(expected.user)
    assert reviews[7] == {
        "user_id": expected.population.user_ids[expected.user[7]],
        "gmap_id": expected.population.gmap_ids[expected.restaurant[7]],
        "rating": expected.rating[7],
        "time": expected.time[7],
    }
    assert isinstance(reviews[7]["time"], Int64)
    assert list(db["Restaurants"].find({}, {"_id": 0})) == expected.population.restaurants


def test_all_blocks_of_users_are_written(db: MongoDatabase, db_settings: Settings) -> None:
    city = City(users=20_500, restaurants=50, reviews=20_500)
    write_city(db, city, db_settings.reviews.fields)
    assert set(db["Reviews"].distinct("user_id")) == set(populate(city).user_ids)


def test_field_names_are_the_settings(db: MongoDatabase, db_settings: Settings) -> None:
    names = {"reviews_restaurant_field": "business_id", "reviews_rating_field": "stars"}
    write_city(db, SMALL, db_settings.with_values(names).reviews.fields)
    review = db["Reviews"].find_one({}, {"_id": 0})
    assert review is not None
    assert set(review) == {"user_id", "business_id", "stars", "time"}


def test_existing_reviews_are_not_replaced(db: MongoDatabase, db_settings: Settings) -> None:
    db["Reviews"].insert_one({"user_id": "real"})
    with pytest.raises(DataError):
        write_city(db, SMALL, db_settings.reviews.fields)
    assert [r["user_id"] for r in db["Reviews"].find()] == ["real"]


def test_an_interrupted_city_leaves_no_reviews(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_city, "review_blocks", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_city(db, SMALL, db_settings.reviews.fields)
    assert db.list_collection_names() == ["Restaurants"]
