"""The pages without a model, without MongoDB, with a key, and of runs in every state."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest
from fastapi.testclient import TestClient

import model
from recommender.core import mongo
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.ledger import STATES, Ledger, now
from recommender.service.pages import duration
from tests.support import some_factors

HTML = "text/html; charset=utf-8"
PROJECT = Path(__file__).resolve().parents[2]
ARRAYS = ("factors", "popularity", "shown")  # of the published factors
NASTY = "<script>alert(1)</script> \U0001f363 \u202eسوشي " + "x" * 300


def page(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, HTML), path
    return answer.text


def test_an_empty_database_has_pages(client: TestClient) -> None:
    overview = page(client, "/")
    assert 'action="/train"' in overview
    assert 'action="/schedule"' in overview
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; ")
    for path in ("/ui/runs", "/ui/quality", "/ui/users"):
        page(client, path)
    for path in ("/ui/clusters", "/ui/users/u", "/ui/try", "/ui/restaurants"):
        assert "POST /train" in page(client, path, 404)
    assert "found &#39;done&#39;" in page(client, "/ui/runs?state=done", 422)
    assert "press Train now" in overview
    for runs in ("", "?run=a", "?run=a&run=b&run=c"):
        assert 'role="alert"' in page(client, f"/ui/compare{runs}")


def test_an_unknown_page_is_a_page_that_leads_on(client: TestClient) -> None:
    for path in ("/ui", "/ui/", "/ui/nowhere", "/ui/runs/a/b", "/ui/nowhere<b>"):
        text = page(client, path, 404)
        assert f" {escape(path)};" in text
        assert '<a href="/">' in text.partition("<main")[2]
    assert client.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_without_mongodb_pages_say_so(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo, "QUICK_READ_SECONDS", 0.05)
    configure(MONGO_URI="mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=50")
    paths = ("/", "/ui/runs", "/ui/quality", "/ui/clusters", "/ui/users/u")
    with TestClient(model.create_app()) as client, ThreadPoolExecutor() as pool:
        for text in pool.map(lambda path: page(client, path, 503), paths):
            assert "MONGO_URI" in text
            assert '<a href="">Try again</a>' in text  # the same address, with its query


def test_runs_of_every_state_are_shown(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    ledger = Ledger(db)
    for number, state in enumerate(STATES):
        run_id = f"20260101T00000000{number}Z-0000000{number}"
        ledger.add(run_id, "api", db_settings.with_values({"als_rank": 7}), None)
        fields: dict[str, Any] = {"state": state, "error": NASTY, "exit_code": 76}
        ledger.update(run_id, fields | {"warnings": [NASTY], "metrics.other": {"some": 0.1}})
        text = page(client, f"/ui/runs/{run_id}")
        assert "&lt;script&gt;" in text
        assert ("ALS_RANK" in text, "CLUSTERS_K" in text) == (True, False)  # only what differs
        assert "--force" in text  # in the remedy of the exit code
        assert ("data-events" in text) == (state in ("queued", "running"))
        assert ("data-events" in page(client, "/")) == (state in ("queued", "running"))
        assert state in page(client, f"/ui/runs?state={state}")
    hindsight = {"run_id": "r", "reviews": 40, "hits": 10, "popular_hits": 5, "unlisted": 1}
    lists = {"ndcg": 0.2, "ndcg_error": 0.01, "popular": {"ndcg": 0.1}, "users": 9}
    lift = {"value": 0.1, "error": 0.02, "live": 0.3, "live_error": 0.02, "limit": 0.2}
    verdict = {"compared_with": "r", "passed": False, "reasons": [NASTY], "lift": lift}
    metrics = {"lists": lists, "hindsight": hindsight}
    ledger.update(run_id, {"metrics": metrics, "gate.recommendations": verdict})
    assert "25.0 %" not in page(client, "/ui/quality")  # it was not published
    assert "0.100 ± 0.020" in page(client, f"/ui/runs/{run_id}")
    phases = phases_of(60, 30)
    ledger.update(run_id, {"state": "succeeded", "phases": phases, "ended_at": now()})
    assert '<rect x="666.7" width="333.3"' in page(client, f"/ui/runs/{run_id}")
    ledger.add("20270101T000000000Z-00000000", "api", db_settings, None)
    ledger.update("20270101T000000000Z-00000000", {"state": "running", "phase": "read"})
    assert "25.0 %" in page(client, "/ui/quality")
    ledger.update(run_id, {"metrics.hindsight.reviews": 0})
    assert "Hindsight" not in page(client, "/ui/quality")
    overview = page(client, "/")
    assert 'aria-current="step"' in overview
    assert "2.0\u00d7" in overview


def test_each_exit_code_of_the_runbook_has_its_remedy(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    Ledger(db).add("r", "schedule", db_settings, None)
    runbook = (PROJECT / "docs" / "operations.md").read_text().partition("## Runbook")[2]
    rows = re.findall(r"^\| (\d[^|]*)\|[^|]*\|([^|]*)\|", runbook, re.MULTILINE)
    remedies = [(int(n), row[1]) for row in rows for n in re.findall(r"\b\d{1,3}\b", row[0])]
    assert {1, 2, 65, 134, 139, 141, 143} <= {code for code, _ in remedies}
    for code, remedy in [*remedies, (255, "")]:  # one that no row has
        Ledger(db).update("r", {"state": "failed", "exit_code": code, "error": "why"})
        (shown,) = re.findall("What to do.</strong> (.+)</p>", page(client, "/ui/runs/r"))
        named = re.findall(r"`([A-Z_*]+|--force|\.staged\.)`", remedy)
        assert [name for name in named if name not in shown] == [], code
        assert ("report it as a bug" in shown) == (code in (1, 134, 139, 255))
    Ledger(db).update("r", {"state": "crashed", "exit_code": None})
    assert "SPARK_DRIVER_MEMORY" in page(client, "/ui/runs/r")


def test_the_last_training_is_named_beside_a_later_rollback(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    ledger = Ledger(db)

    def news() -> list[str]:
        text = page(client, "/").replace("<strong>", "").replace("</strong>", "")
        return re.findall(r"The last ((?:training|rollback) (?:was )?\w+)", text)

    assert news() == []
    ledger.add("a", "schedule", db_settings, None)
    ledger.update("a", {"phases": phases_of(1, 1), "settings.als_alpha": 40.0})
    ledger.close("a", "succeeded", 0, None)
    assert news() == ["training succeeded"]
    ledger.add("b", "schedule", db_settings, None)
    ledger.update("b", {"settings.als_alpha": 40.00004})
    assert "/ui/compare" not in page(client, "/ui/runs/b")  # it has not ended
    ledger.close("b", "failed", 65, "why")
    ledger.add("c", "api", db_settings, None, "rollback")
    ledger.close("c", "succeeded", 0, None)
    assert news() == ["rollback succeeded", "training failed"]
    for run_id, linked in (("a", False), ("b", True), ("c", False)):
        text = page(client, f"/ui/runs/{run_id}")
        assert (f"/ui/compare?run=a&amp;run={run_id}" in text) == linked
    assert "40.00004<" in page(client, "/ui/compare?run=a&run=b")  # not rounded to the other


def phases_of(read: float, publish: float) -> list[dict[str, Any]]:
    """Return the phases of a training that took these seconds, and has just ended."""
    publishing, seconds = now() - timedelta(seconds=publish), timedelta(seconds=read)
    return [
        {"name": "read", "started_at": publishing - seconds, "seconds": read},
        {"name": "publish recommendations", "started_at": publishing, "seconds": publish},
    ]


def test_the_overview_is_of_the_lists_that_are_live(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    ledger = Ledger(db)
    ndcg = {"a": 0.3, "b": 0.5, "c": 0.7}
    for run_id, value in ndcg.items():
        ledger.add(run_id, "script", db_settings, None)
        lists = {"ndcg": value, "popular": {"ndcg": 0.1}, "random": {"ndcg": 0.0}}
        ledger.update(run_id, {"phases": phases_of(100, 10), "metrics.lists": lists})
        ledger.close(run_id, "failed" if run_id == "c" else "succeeded", 0, None)
    for number in range(60):
        ledger.add(f"d{number}", "schedule", db_settings, None)
    ledger.update("b", {"phases": phases_of(200, 10), "started_at": now() - timedelta(hours=1)})
    db["Metadata"].insert_one({"_id": "kmeans_clusters", "run_id": "a"})
    db["Recommendations"].insert_one({"user_id": "u", "run_id": "a"})
    for run_id, value in ndcg.items():
        db["Recommendations"].update_one({}, {"$set": {"run_id": run_id}})
        overview = page(client, "/")
        assert f"<em>{value / 0.1:.1f}" in overview
        assert "Last published" in overview  # as the latest training failed
        assert ("▲ 0.200" in overview) == (run_id != "a")  # the change since the one before
        served = re.findall(r"(\w+ of )?<a [^>]*><code>(\w+)</code></a>[.,]", overview)
        both = [("clusters of ", "a"), ("lists of ", run_id)]
        assert served == (both if run_id != "a" else [("", "a")])
    ledger.add("e", "api", db_settings, None)
    ledger.update("e", {"state": "running", "phase": "read"})
    overview = page(client, "/")
    assert "<small>about 3 min 20 s</small>" in overview  # of the last success
    assert re.search("about (1 h 0|59) min left", overview)
    assert "0.700" in page(client, "/ui/quality")  # of 50 trainings, not of 50 runs
    assert "NDCG" in client.get("/ui/quality.svg").text


def test_figures_are_shown_beside_their_baselines(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    def lists(ndcg: float, popular: float, random: float) -> dict[str, Any]:
        more = {"ndcg_error": 0.011, "hit_rate": 0.502, "coverage": 0.703, "users": 9, "shown": 13}
        baseline = {"ndcg": popular, "hit_rate": 0.405, "coverage": 0.106}
        return {"ndcg": ndcg, **more, "popular": baseline, "random": {"ndcg": random}}

    held_out = {"held_out": lists(0.287, 0.143, 0.021), "k": 4, "smallest": 5, "largest": 77}
    als = {"rmse": 0.608, "rmse_error": 0.009, "baseline_rmse": 0.651, "mean_rmse": 0.792}
    metrics: dict[str, Any] = {"lists": lists(0.301, 0.204, 0.017), "als": als}
    metrics |= {"hindsight": {"run_id": "r", "reviews": 40, "hits": 10, "popular_hits": 5}}
    ledger = Ledger(db)
    ledger.add("a", "api", db_settings, None)
    shown = {"metrics": metrics | {"clusters": held_out}, "warnings": [NASTY]}
    ledger.update("a", {"phases": phases_of(1, 1), **shown})
    ledger.close("a", "succeeded", 0, None)
    db["Recommendations"].insert_one({"user_id": "u", "run_id": "a"})
    both = ["0.301", "0.204", "0.017", "0.608", "0.651", "0.792"]
    overview = [*both, "50.2 %", "40.5\u00a0%", "70.3 %", "5 to 77", escape(NASTY)]
    run = [*both, "0.287", "0.143", "0.021", "<strong>10</strong>", "5 of one in"]
    quality = [*both, "0.703", "25.0 %", "12.5 %", '<td class="n">1.5</td>']
    svg = ["NDCG", "RMSE", "Share of all restaurants", "popular", "random", "biases", "mean"]
    for path, figures in (("/", overview), ("/ui/runs/a", run), ("/ui/quality", quality)):
        text = page(client, path)
        assert [figure for figure in figures if figure not in text] == [], path
    drawn = client.get("/ui/quality.svg").text
    assert [label for label in svg if label not in drawn] == []
    assert re.search("Trained .+ago</time>, next in (3 h 0|2 h 59) min", page(client, "/"))


def test_a_comparison_begins_with_causes_and_effects(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    for run_id, rank in (("a", 7), ("b", 8000)):
        Ledger(db).add(run_id, "api", db_settings.with_values({"als_rank": rank}), None)
        Ledger(db).close(run_id, "failed", 65, None)
        Ledger(db).update(run_id, {"kind": f"of {run_id}"})
    Ledger(db).update("a", {"metrics": {"lists": {"ndcg": 0.2}}, "exit_code": 0})
    compared = page(client, "/ui/compare?run=a&run=b")
    names = re.findall("<th><code>([^<]*)", compared)
    assert [name for name in names if name.startswith("settings.")] == ["settings.als_rank"]
    assert re.search("<p>[0-9]{2} ", compared)  # values are the same in both
    assert "<bdi>8000</bdi>" in compared  # as a setting is written
    positions = [names.index(each) for each in ("settings.als_rank", "metrics.lists.ndcg", "kind")]
    assert positions == sorted(positions)
    assert "<h2>Data</h2>" not in page(client, "/ui/runs/b")


def test_restaurants_without_names_open_from_links_by_awkward_ids(
    client: TestClient, db: MongoDatabase
) -> None:
    ids = ["a/b?c%d\ne#f", "..//x&y=z", 5, ".", "..", "\n"]
    some = some_factors("r")
    parts = {part: some[part] + 3 * some[part][: len(some[part]) // 3] for part in ARRAYS}
    db["Metadata"].insert_one({**some, **parts, "gmap_ids": ids})
    listed = page(client, "/ui/restaurants")
    assert "<code>Restaurants</code>" in listed  # the collection that has no names of them
    for user in ("..", "\n"):
        db["Recommendations"].insert_one({"user_id": user, "recommendations": []})
    for path in ("/ui/restaurants", "/ui/users"):
        assert '<bdi>"\\n"</bdi>' in page(client, path)  # a link that can be seen and pressed
    (link,) = re.findall('<a href="(/ui/users/[^"]+)"', page(client, "/ui/users?q=."))
    assert "User <bdi>..</bdi>" in page(client, urljoin("/ui/users", link))
    links = re.findall('<a href="(/ui/restaurants/[^"]+)"', listed)
    assert len(links) == len(ids)
    for gmap_id, link in zip(ids, links, strict=True):
        text = page(client, urljoin("/ui/restaurants", link))  # as browsers resolve it
        assert f"<code>{escape(str(gmap_id))}</code>" in text
        assert "/ui/restaurants/" in text.partition('<ol class="list">')[2]  # similar ones


def test_the_log_is_shown_by_the_id_of_its_run(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    run_id = "20260101T000000000Z-00000000"
    Ledger(db).add(run_id, "api", db_settings, None)
    Ledger(db).update(run_id, {"log": "/etc/passwd"})
    assert "root:" not in page(client, f"/ui/runs/{run_id}")
    db_settings.log_dir.mkdir(parents=True)
    (db_settings.log_dir / f"{run_id}.log").write_text("first line\n" + "y" * 50_000 + "\n" + NASTY)
    text = page(client, f"/ui/runs/{run_id}")
    assert "&lt;script&gt;" in text
    assert "first line" not in text
    assert "yyy" not in text  # a part of a line


def test_the_key_is_asked_for_once(configure: Callable[..., None], db: MongoDatabase) -> None:
    configure(API_KEY="kéy")
    with TestClient(model.create_app(), follow_redirects=False) as client:
        asked = "/ui/users/a%2F..%2Fb?x=%26&y"
        refused = client.get(asked)
        login = f"/ui/login?asked={quote(asked, safe='')}"
        assert (refused.status_code, refused.headers["location"]) == (303, login)
        # Without the cookie, as browsers send none after a link of another site.
        assert f'<a href="{escape(asked)}">' in page(client, login)
        same_site = client.get(login, headers={"Sec-Fetch-Site": "same-origin"})
        assert f'href="{escape(asked)}"' not in same_site.text
        for other in (
            "//evil.example",
            "https://evil.example/ui/",
            "/\\evil",
            "javascript:1",
            "/ui",
        ):
            assert '<a href="/">open' in page(client, f"/ui/login?asked={quote(other, safe='')}")
        assert client.get("/static/page.css").status_code == 200
        assert client.post("/ui/login", data={"key": "wrong"}).status_code == 403
        long = client.post("/ui/login", data={"key": "x" * 200_000})
        assert (long.status_code, long.headers["content-type"][:9]) == (413, "text/html")
        evil = {"Origin": "http://evil.example"}
        assert client.post("/ui/login", data={"key": "kéy"}, headers=evil).status_code == 403
        assert client.get("/runs").status_code == 401
        for path, location in ((login, asked), ("/ui/login?asked=//evil.example/ui/", "/")):
            answer = client.post(path, data={"key": "kéy"})
            assert (answer.status_code, answer.headers["location"]) == (303, location)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "kéy" not in cookie
        page(client, "/ui/runs")
        assert client.get("/runs").status_code == 200
        held = dict(client.cookies)
    configure(API_KEY="another")
    with TestClient(model.create_app(), cookies=held, follow_redirects=False) as client:
        assert client.get("/").status_code == 303
        assert client.get("/runs").status_code == 401


def test_durations_are_short() -> None:
    cases = {0.04: "0.0 s", 9.96: "10.0 s", 59: "59 s", 61: "1 min 1 s", 599: "9 min 59 s"}
    cases |= {1306: "21 min", 8220: "2 h 17 min", 200_000: "2 d"}
    assert {seconds: duration(seconds) for seconds in cases} == cases
