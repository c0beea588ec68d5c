"""What is published, read through the API: a small city with factors and clusters."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import bson
import numpy as np
import pytest
from bson import Code, Decimal128, ObjectId
from bson.raw_bson import RawBSONDocument
from fastapi.testclient import TestClient

import clustering_training
import model
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.ledger import Ledger
from recommender.service import routes_runs
from recommender.service.dependencies import Service
from tests.support import set_environment, some_factors, write_tiny_city
from tests.waiting import at_once, until

AWKWARD = ["a/b", "50%?x=1#y", "two\nlines", "..x", "<script>alert(1)</script>"]
AWKWARD += ["\U0001f363 سوشي"]
POPULAR_SCORE = 1e-7
HTML = "text/html; charset=utf-8"


@pytest.fixture
def client(
    db: MongoDatabase,
    db_settings: Settings,
    run_here: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TestClient]:
    """The API on a city with clusters, and with factors of the restaurants ``a``, 5 and ``c``."""
    write_tiny_city(db, db_settings)
    db["Reviews"].insert_many(
        [{"user_id": user, "gmap_id": "a", "rating": 5} for user in (*AWKWARD, "new", 7)]
    )
    db["Restaurants"].insert_many(
        [{"gmap_id": "a", "name": "Ántonia <b>"}, {"gmap_id": 5, "name": "Bar Antonia"}]
    )
    assert run_here(clustering_training.main, CLUSTERS_K="4") == 0
    db["Metadata"].insert_one(some_factors("0"))
    db["Recommendations"].create_index("user_id", unique=True)
    stored = [{"gmap_id": "c", "score": 0.7, "rating": 4.5}, {"gmap_id": 5, "score": 0.1}]
    popular = [{"gmap_id": "a", "score": POPULAR_SCORE}]
    lists: list[tuple[Any, list[Any]]] = [(user, stored) for user in (*AWKWARD, 7)]
    lists += [("popular", popular), ("written", [*popular, {"gmap_id": "a"}, None])]
    lists += [("unrated", [{"gmap_id": "c", "score": 5, "rating": None}]), ("all rated", [])]
    db["Recommendations"].insert_many(
        [{"user_id": u, "run_id": "0", "recommendations": entries} for u, entries in lists]
    )
    db["Recommendations"].update_one({"user_id": "written"}, {"$unset": {"run_id": ""}})
    since: list[Any] = ["a", "opened since", 9, 5.0]
    db["Reviews"].insert_many([{"user_id": "all rated", "gmap_id": i, "rating": 1} for i in since])
    set_environment(monkeypatch, db_settings)
    with TestClient(model.create_app()) as test_client:
        yield test_client


def get(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_api_of_the_published_model(client: TestClient, db: MongoDatabase) -> None:
    lists_are_read_by_id(client)
    anonymous_users_are_folded_in(client)
    users_are_shown_and_searched(client, db)
    clusters_are_listed_with_names(client)
    restaurants_are_searched(client)
    pages_escape_what_they_show(client)
    the_model_changes_its_tag(client, db)


def lists_are_read_by_id(client: TestClient) -> None:
    for user in (*AWKWARD, "7"):
        body = get(client, f"/recommendations/{quote(user, safe='')}")
        assert (body["source"], body["run_id"]) == ("personal", "0"), user
        first = body["recommendations"][0]
        assert first == {
            "gmap_id": "c", "name": None, "score": 0.7, "rating": 4.5, "because": ["a"]
        }  # fmt: skip
        assert [e["name"] for e in body["recommendations"]] == [None, "Bar Antonia"]
    assert len(get(client, "/recommendations/7", n=1)["recommendations"]) == 1
    assert client.get("/recommendations/7", params={"n": 101}).status_code == 422
    assert get(client, "/recommendations/popular")["source"] == "fallback"
    assert get(client, "/recommendations/written")["run_id"] is None
    for user, length in (("unrated", 1), ("all rated", 0)):
        body = get(client, f"/recommendations/{user}")
        assert (body["source"], len(body["recommendations"])) == ("personal", length)
    assert body["unknown"] == [9, "opened since"]
    assert " 2 of " in client.get("/ui/users/all%20rated").text
    folded = get(client, "/recommendations/new")
    assert (folded["source"], folded["recommendations"][0]["gmap_id"]) == ("folded-in", "c")
    nobody = get(client, "/recommendations/nobody")
    assert (nobody["source"], len(nobody["recommendations"])) == ("fallback", 13)


def anonymous_users_are_folded_in(client: TestClient) -> None:
    def ask(*ratings: Any, status: int = 200) -> Any:
        sent = [dict(zip(("gmap_id", "rating"), pair, strict=True)) for pair in ratings]
        answer = client.post("/recommendations", json={"ratings": sent})
        assert answer.status_code == status, answer.text
        return answer.json()

    body = ask(("a", 5), ("nowhere", 4))
    assert (body["source"], body["unknown"]) == ("folded-in", ["nowhere"])
    assert body["recommendations"][0]["because"] == ["a"]
    assert ask((5, 5))["source"] == "folded-in"
    of_cluster = get(client, "/clusters/0")["recommendations"][0]["gmap_id"]
    by_cluster = ask((of_cluster, 5))
    assert (by_cluster["source"], by_cluster["unknown"]) == ("cluster", [])
    listed = [entry["gmap_id"] for entry in by_cluster["recommendations"]]
    assert of_cluster not in listed
    assert get(client, "/recommendations", rated=f"{of_cluster}=5") == by_cluster
    assert ask(("nowhere", 4))["source"] == "fallback"
    for wrong in ([], [("a", 9)], [("a", 5), ("c", "x")], [("a", 5), ("c", 0)], [("a", 5)] * 1001):
        ask(*wrong, status=422)
    ask((True, 5), status=422)


def users_are_shown_and_searched(client: TestClient, db: MongoDatabase) -> None:
    for user in AWKWARD:
        body = get(client, f"/users/{quote(user, safe='')}")
        assert body["user_id"] == user
        assert body["rated"] == [{"gmap_id": "a", "name": "Ántonia <b>", "rating": 5, "at": None}]
        assert body["served"]["source"] == "personal"
    assert client.get("/users/nobody").status_code == 404
    assert get(client, "/users/popular")["rated"] == []
    for prefix, users in (("po", ["popular"]), ("\U0001f363", [AWKWARD[-1]])):
        text = client.get("/ui/users", params={"q": prefix}).text
        assert re.findall('<a href="/ui/users/([^"]+)"', text) == [quote(u, safe="") for u in users]
    assert "Only the first" not in client.get("/ui/users").text
    db["Recommendations"].insert_many([{"user_id": f"many{n:02}"} for n in range(40)])
    many = client.get("/ui/users?q=many").text
    assert "many29" in many
    assert "Only the first 30" in many
    query = db["Recommendations"].find({"user_id": {"$gte": "po", "$lt": "po\U0010ffff"}})
    assert "IXSCAN" in json.dumps(query.explain()["queryPlanner"]["winningPlan"])


def clusters_are_listed_with_names(client: TestClient) -> None:
    listed = get(client, "/clusters")["clusters"]
    assert [cluster["cluster_id"] for cluster in listed] == [0, 1, 2, 3]
    assert all(len(cluster["recommendations"]) == 3 for cluster in listed)
    whole = get(client, "/clusters/3")
    assert len(whole["recommendations"]) > 3
    assert whole["size"] == listed[3]["size"]
    names = {e["name"] for c in range(4) for e in get(client, f"/clusters/{c}")["recommendations"]}
    assert names
    assert None not in names
    assert client.get("/clusters/4").status_code == 404
    sizes = [str(c["cluster_id"]) for c in sorted(listed, key=lambda cluster: -cluster["size"])]
    assert sizes != sorted(sizes)
    for order, expected in (("", sizes), ("?by=number", sorted(sizes))):
        text = client.get(f"/ui/clusters{order}").text
        assert re.findall('href="/ui/clusters/([0-9]+)"', text) == expected


def restaurants_are_searched(client: TestClient) -> None:
    def search(text: str) -> list[Any]:
        return [r["gmap_id"] for r in get(client, "/restaurants", q=text)["restaurants"]]

    assert search("ANTONIA") == [5]
    assert search("ánt") == ["a"]
    assert search("bar anto") == [5]
    assert search("$where .*") == []
    assert client.get("/restaurants", params={"q": "x" * 301}).status_code == 422
    (similar,) = get(client, "/restaurants/a/similar")["restaurants"]
    assert similar["gmap_id"] == "c"
    assert similar["score"] == pytest.approx(0.5 / np.hypot(0.5, 0.1), abs=1e-6)
    assert get(client, "/restaurants/5/similar")["restaurants"][0]["gmap_id"] == "c"
    assert client.get("/restaurants/nowhere/similar").status_code == 404


def pages_escape_what_they_show(client: TestClient) -> None:
    run_id = get(client, "/runs")["runs"][0]["run_id"]
    pages = ["/", "/ui/runs", f"/ui/runs/{run_id}", f"/ui/compare?run={run_id}&run={run_id}"]
    pages += ["/ui/quality", "/ui/clusters", "/ui/clusters/3", "/ui/users?q=<script>", "/ui/try"]
    pages += [f"/ui/users/{quote(user, safe='')}" for user in AWKWARD]
    pages += ["/ui/restaurants?q=ántonia", "/ui/restaurants/a", "/ui/try?rated=a=5&q=<b>"]
    for path in pages:
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, HTML), path
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not re.search("<(b|script)>", answer.text), path
        assert not re.search(r" style=|\bon[a-z]+=", answer.text), path
        assert not re.search('tabindex="0"(?! role="region" aria-label="[A-Z])', answer.text), path
    tried = client.get("/ui/try?rated=a=4&rated=a=5").text
    assert "Ántonia &lt;b&gt;" in tried
    assert tried.count('value="a=5"') == 1
    assert "because of" in tried
    assert "because of" not in client.get("/ui/try?rated=a=5&remove=a").text
    names = re.findall(
        '<th scope="row">([^<]+)</th><td><svg', client.get(f"/ui/runs/{run_id}").text
    )
    assert names == [phase["name"] for phase in client.get(f"/runs/{run_id}").json()["phases"]]
    for path in ("/ui/runs/nowhere", "/ui/clusters/4", "/ui/users/nobody", "/ui/restaurants/x"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, HTML)


def the_model_changes_its_tag(client: TestClient, db: MongoDatabase) -> None:
    parts = ("lists_run_id", "factors_run_id", "clusters_run_id")

    def of_another(tag: str) -> tuple[str, str, list[str | None]]:
        """Return the tag, the run and the runs of the parts, which are not those of the tag."""
        answer = client.get("/model", headers={"If-None-Match": tag})
        assert (answer.status_code, answer.json()["clusters"]) == (200, 4)
        tag = answer.headers["etag"]
        for known in (tag, f'W/"x", W/{tag}', "*"):
            unchanged = client.get("/model", headers={"If-None-Match": known})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
        return tag, answer.json()["run_id"], [answer.json()[part] for part in parts]

    tag, clusters, runs = of_another("")
    assert runs == [None, "0", clusters]
    Ledger(db).update(clusters, {"phases": [{"name": "publish recommendations", "seconds": 1}]})
    written: Any = {"run_id": {"$exists": True}}
    for lists, last in (("9", "9"), ("1", clusters), ("9", "9")):  # a training without clusters
        db["Recommendations"].update_many(written, {"$set": {"run_id": lists}})
        tag, run_id, runs = of_another(tag)
        assert (run_id, runs) == (last, [lists, "0", clusters])
    db["Metadata"].replace_one({"_id": "item_factors"}, some_factors("9"))
    tag, run_id, runs = of_another(tag)  # though the last run is the same
    assert (run_id, runs) == ("9", ["9", "9", clusters])
    for name in ("Recommendations", "Metadata"):
        db[name].update_many(written, {"$set": {"run_id": clusters}})
    assert of_another(tag) == (f'"{clusters}"', clusters, [clusters] * 3)


@pytest.fixture
def empty(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """The API on an empty database."""
    set_environment(monkeypatch, db_settings)
    with TestClient(model.create_app()) as test_client:
        yield test_client


READS = ["/model", "/recommendations/u", "/users/u", "/clusters", "/clusters/0"]
READS += ["/restaurants?q=a", "/restaurants/a/similar"]


def test_before_the_first_training_there_is_nothing_to_read(empty: TestClient) -> None:
    assert [empty.get(path).status_code for path in READS] == [404] * len(READS)
    sent = {"ratings": [{"gmap_id": "a", "rating": 5}]}
    assert empty.post("/recommendations", json=sent).status_code == 404


def test_the_lists_of_a_training_without_clusters_are_a_model(
    empty: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    Ledger(db).add("r", "script", db_settings, None)
    Ledger(db).update("r", {"phases": [{"name": "publish recommendations", "seconds": 1}]})
    db["Recommendations"].insert_one({"user_id": "u", "run_id": "r", "recommendations": []})
    body = empty.get("/model").json()
    assert (body["run_id"], body["lists_run_id"], body["clusters_run_id"]) == ("r", "r", None)


def test_a_stored_list_with_values_of_other_types_is_shown(
    empty: TestClient, db: MongoDatabase
) -> None:
    ids = [Decimal128("1.5"), ObjectId(), b"\xff", Code("c")]
    entries = [{"gmap_id": i, "score": 1} for i in ids]
    db["Recommendations"].insert_one({"user_id": "u", "run_id": 7, "recommendations": entries})
    body = empty.get("/recommendations/u").json()
    assert [e["gmap_id"] for e in body["recommendations"]] == [str(i) for i in ids]


def test_documents_of_a_backend_that_no_answer_can_hold_stop_no_other(
    empty: TestClient, db: MongoDatabase
) -> None:
    db["Metadata"].insert_one(some_factors("r"))
    entries = [{"gmap_id": "id??", "score": 2.0}, {"gmap_id": "a", "score": float("nan")}]
    entries += [{"gmap_id": "a", "score": 1, "rating": float("inf")}, {"gmap_id": "c", "score": 1}]
    for user in ("u", "id??"):
        document = bson.encode({"_id": user[:1], "user_id": user, "recommendations": entries})
        broken = RawBSONDocument(document.replace(b"id??", b"i\xc3?\xff"))
        db.get_collection("Recommendations").insert_one(broken)
    body = empty.get("/recommendations/u").json()
    assert [(e["gmap_id"], e["score"]) for e in body["recommendations"]] == [
        ("i\ufffd?\ufffd", 2),
        ("c", 1),
    ]
    for path in ("/ui/users", "/ui/users?q=i", "/ui/users/u"):
        assert "i\ufffd?\ufffd" in empty.get(path).text


def test_runs_are_filtered(empty: TestClient, db: MongoDatabase, db_settings: Settings) -> None:
    for run_id, trigger in (("a", "api"), ("b", "script"), ("c", "api")):
        Ledger(db).add(run_id, trigger, db_settings, None)  # type: ignore[arg-type]

    def listed(**params: Any) -> list[str]:
        return [run["run_id"] for run in empty.get("/runs", params=params).json()["runs"]]

    assert listed(state="queued") == ["c"]
    assert listed(trigger="api") == ["c", "a"]
    assert listed(before="c", state="crashed") == ["b", "a"]
    for wrong in ({"state": "done"}, {"trigger": "x"}, {"before": "$gt"}):
        assert empty.get("/runs", params=wrong).status_code == 422
    (run,) = empty.get("/runs", params={"limit": 1, "summary": True}).json()["runs"]
    assert run["state"] == "queued"
    assert "settings" not in run


def test_clients_follow_a_run_to_its_end(
    empty: TestClient, db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_runs, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(routes_runs, "_MOST_CLIENTS", 3)
    ledger = Ledger(db)
    ledger.add("r", "api", db_settings, None)
    assert empty.get("/runs/other/events").status_code == 404
    service = empty.app.state.service  # type: ignore[attr-defined]
    reads: Counter[str] = Counter()

    def counted(service: Service, run_id: str) -> Any:
        run = read(service, run_id)
        reads[(run or {})["phase"]] += 1
        return run

    read = routes_runs._read_ledger
    monkeypatch.setattr(routes_runs, "_read_ledger", counted)

    def follow(number: int) -> list[Any]:
        if number == 3:
            until(lambda: len(service.followers) == 3)
            assert empty.get("/runs/r/events").status_code == 503
            ledger.update("r", {"phase": "read"})
            until(lambda: reads["read"])
            ledger.close("r", "failed", 65, "why")
            return []
        lines = empty.get("/runs/r/events").text.split("\n\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line]

    *clients, _ = at_once(4, follow)
    for seen in clients:
        assert [seen[0]["state"], seen[-1]["state"]] == ["queued", "failed"]
        assert (seen[-1]["exit_code"], seen[-1]["error"]) == (65, "why")
    assert any(run["phase"] == "read" for run in clients[0])
    until(lambda: not service.followers)
