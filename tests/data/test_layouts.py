"""Three public layouts of reviews, with their quirks, from the file to a training."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import als_training
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.demo.synthetic_city import City, populate, review_blocks
from recommender.load import main
from recommender.runs.ledger import Ledger


class Row(NamedTuple):
    user: str
    restaurant: str
    rating: int
    at: datetime


def rows(seed: int) -> Iterator[Row]:
    population = populate(City(users=120, restaurants=40, reviews=700, seed=seed, tastes=4))
    for block in review_blocks(population):
        users, restaurants = population.user_ids[block.user], population.gmap_ids[block.restaurant]
        ratings, times = block.rating.tolist(), (block.time / 1000).tolist()
        for user, restaurant, rating, time in zip(users, restaurants, ratings, times, strict=True):
            yield Row(str(user), str(restaurant), rating, datetime.fromtimestamp(time, UTC))


def as_zomato(city: list[Row]) -> bytes:
    """CSV: texts of several lines, a rating "Like", blank rows, US times, a stray column."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("Restaurant", "Reviewer", "Review", "Rating", "Metadata", "Time", "Pictures", "7514")
    writer.writerow(names)
    for number, row in enumerate(city):
        at = f"{row.at.month}/{row.at.day}/{row.at.year} {row.at.hour}:{row.at.minute:02}"
        said = f'"Best" place,\n\nreview {number} \u2605'
        name, rating = f"Caf\u00e9, {row.restaurant}", str(row.rating + 0.5 * (row.rating == 4))
        writer.writerow([name, f"Reviewer {row.user}", said, rating, "1 Review", at, 0, ""])
    writer.writerow([name, "Reviewer x", "", "Like", "1 Review , 2 Followers", at, 0, "2447"])
    writer.writerows([[name, *[""] * 7]] * 3)
    return text.getvalue().encode()


def as_yelp(city: list[Row]) -> bytes:
    """JSON lines: ratings as floats, local dates with a blank, texts with breaks and emoji."""
    return "".join(
        json.dumps(
            {
                "review_id": f"r{n}",
                "user_id": f"-_{row.user}",
                "business_id": row.restaurant,
                "stars": float(row.rating),
                "useful": 0,
                "text": 'a \U0001f600\nb \\ "c" {\'',
                "date": row.at.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )
        + "\n"
        for n, row in enumerate(city)
    ).encode()


def as_google(city: list[Row]) -> bytes:
    """JSON lines in gzip: ids of 21 digits, null texts, nested objects, a missing rating."""
    more: list[dict[str, Any]] = [
        {"text": None, "pics": None, "resp": None},
        {"text": "ok", "pics": [{"url": ["https://x/{}"]}], "resp": {"time": 1, "text": "thanks"}},
    ]
    objects = [
        {"user_id": row.user, "name": "N", "time": round(row.at.timestamp() * 1000)}
        | {"rating": row.rating, "gmap_id": row.restaurant, **more[n % 2]}
        for n, row in enumerate(city)
    ]
    objects += [objects[0], objects[1] | {"rating": None}]
    return gzip.compress("".join(json.dumps(each) + "\n" for each in objects).encode())


@pytest.mark.nightly
def test_public_layouts_load_and_train(
    train_here: Callable[..., int],
    run_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    total = 0
    for seed, (preset, name, written, rejected) in enumerate(
        (
            ("zomato", "Restaurant reviews.csv", as_zomato, 4),
            ("yelp", "yelp_academic_dataset_review.json", as_yelp, 0),
            ("google", "review-New_York.json.gz", as_google, 1),
        )
    ):
        city = list(rows(seed))
        (tmp_path / name).write_bytes(written(city))
        assert run_here(main, str(tmp_path / name), "--preset", preset, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        loaded = len(city) + (preset == "google")
        assert (report["loaded"], sum(report["rejected"].values())) == (loaded, rejected)
        assert set(report["times"].values()) == {0, loaded}  # all in one notation
        minute = 60 if preset == "zomato" else 1
        stored = {int(r["time"]) // 1000 // minute for r in db["Reviews"].find().skip(total)}
        assert stored == {int(row.at.timestamp()) // minute for row in city}
        total += loaded
    assert db["Reviews"].distinct("rating") == [1, 2, 3, 4, 4.5, 5]
    assert train_here(als_training.main, CLUSTERS_K="5") == 0
    run = Ledger(db).recent(1)[0]
    assert (run["ratings"], run["rows_merged"], run["rows_rejected"]) == (total - 1, 1, {})
    assert db["Recommendations"].count_documents({}) == run["users"] == 360
