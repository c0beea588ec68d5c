"""The page in a real browser: a training, users, restaurants and runs, wide and narrow."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import psutil
import pytest
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.common.exceptions import (
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import alert_is_present

import clustering_training
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from tests.service.test_api import service
from tests.support import write_tiny_city
from tests.waiting import TRAINING_SECONDS, until

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

NASTY = "<script>alert(1)</script> \U0001f363 \u202eسوشي " + "x" * 300
WIDTHS = (1280, 390)
# Where a column is too narrow, words break into letters.
TALLEST = "return Math.max(0, ...[...document.querySelectorAll('tr, li')].map(e => e.offsetHeight))"
PAUSED = '.call[data-json*="false"]'  # what resumes the schedule
USER = "a/b?c%d\ne"
RESTAURANT = "r/s?t%u\nv"


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium of the system without a window; `make chromium` installs Debian's."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on PATH; run `make chromium`")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def shown(browser: webdriver.Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def text(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.querySelector('main').textContent"))


def labels(browser: webdriver.Chrome, selector: str) -> Any:
    """Return the texts of elements, read at once: the page may be replacing them."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())"
    return browser.execute_script(script, selector)


def focused(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.activeElement.textContent"))


def press(browser: webdriver.Chrome, label: str) -> None:
    """Press the button of that label with the keyboard."""
    script = """return [...document.querySelectorAll("button")].find(
        (b) => (b.getAttribute("aria-label") || b.textContent.trim()) === arguments[0])"""

    def pressed() -> bool:
        button = browser.execute_script(script, label)
        # The page may just have replaced it.
        with suppress(StaleElementReferenceException, ElementNotInteractableException):
            if button:
                button.send_keys("\ue007")
                return True
        return False

    until(pressed)


def confirm(browser: webdriver.Chrome) -> None:
    alert = until(lambda: alert_is_present()(browser))
    assert alert
    alert.accept()


def test_the_pages_in_a_browser(
    browser: webdriver.Chrome,
    db: MongoDatabase,
    db_settings: Settings,
    run_here: Callable[..., int],
) -> None:
    with service(db_settings) as (_, url):
        an_empty_database_is_shown(browser, url)
        write_tiny_city(db, db_settings)
        (best,) = db["Reviews"].aggregate([{"$sortByCount": "$gmap_id"}, {"$limit": 1}])
        same, renamed = {"gmap_id": best["_id"]}, {"$set": {"gmap_id": RESTAURANT}}
        db["Restaurants"].update_one(same, {"$set": {"name": NASTY}})
        for name in ("Reviews", "Restaurants"):
            db[name].update_many(same, renamed)
        db["Reviews"].insert_one({"user_id": USER, "gmap_id": RESTAURANT, "rating": 5})
        a_training_is_started_and_watched(browser, url, db)
        assert run_here(clustering_training.main) == 0
        for width in WIDTHS:
            emulate(browser, width, "light")
            two_runs_are_compared(browser, url)
            a_user_is_looked_up(browser, url)
            a_cluster_is_explained(browser, url)
            a_new_user_gets_a_list(browser, url)
        the_schedule_is_paused_and_resumed(browser, url)
        a_message_is_not_ended_by_the_one_before(browser)
        of_two_browsers_one_starts_a_training_and_the_other_cancels_it(browser, url, db)
        a_clustering_is_rolled_back(browser, url, db)
        a_mongodb_that_hangs_is_named(browser, url, db)
        every_page_fits_and_is_accessible(browser, url, db)
        assert errors_of(browser) == []
        browser.get(url)
    a_restart_of_the_service_is_survived(browser, url, db_settings)
    logs: Any = browser
    messages = (json.loads(line["message"])["message"] for line in logs.get_log("performance"))
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    own = (f"{url}/", "data:", "chrome")
    assert [s for s in sent if not s["request"]["url"].startswith(own)] == []


def errors_of(browser: webdriver.Chrome) -> list[str]:
    """Return the errors on the console since the last call."""
    logs: Any = browser
    entries = logs.get_log("browser")
    return [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]


def test_the_key_is_asked_for_once_in_a_browser(
    browser: webdriver.Chrome, db: MongoDatabase, db_settings: Settings
) -> None:
    with service(db_settings, API_KEY="kéy") as (_, url):
        asked = f"{url}/ui/runs?state=failed"
        browser.get(asked)
        shown(browser, "input")[0].send_keys("wrong\ue007")
        until(lambda: shown(browser, ".alert"))
        shown(browser, "input")[0].send_keys("kéy\ue007")
        until(lambda: browser.current_url == asked)
        browser.get(url)
        press(browser, "Pause the schedule")
        until(lambda: (db["TrainingState"].find_one({"_id": "schedule"}) or {}).get("paused"))


def an_empty_database_is_shown(browser: webdriver.Chrome, url: str) -> None:
    for path in ("/ui/runs", "/ui/quality", "/"):
        browser.get(url + path)
        assert Axe().run(browser)["violations"] == []
    assert "recommender.load" in text(browser)  # the command to begin with


def a_training_is_started_and_watched(
    browser: webdriver.Chrome, url: str, db: MongoDatabase
) -> None:
    browser.get(url)
    assert not shown(browser, ".verdict em")
    press(browser, "Train now")
    until(lambda: shown(browser, ".card .state"))
    until(lambda: shown(browser, ".steps .done"), 3 * TRAINING_SECONDS)  # without a reload
    until(lambda: shown(browser, ".tiles .tile"), 3 * TRAINING_SECONDS)
    assert shown(browser, ".verdict em")  # how the lists compare with the popular one
    assert not shown(browser, ".card")
    assert db["TrainingRuns"].count_documents({"state": "succeeded", "trigger": "api"}) == 1


def two_runs_are_compared(browser: webdriver.Chrome, url: str) -> None:
    browser.get(f"{url}/ui/runs")
    boxes = shown(browser, "input[name=run]")
    assert len(boxes) == 2
    for box in boxes:
        box.click()
    press(browser, "Compare two runs")
    until(lambda: "/ui/compare" in browser.current_url)
    assert "trigger" in text(browser)
    assert "settings.seed" not in text(browser)  # the same in both


def a_user_is_looked_up(browser: webdriver.Chrome, url: str) -> None:
    browser.get(f"{url}/ui/users")
    shown(browser, "#q")[0].send_keys("a/b?")
    until(lambda: labels(browser, "#live a") == [USER])
    shown(browser, "#live a")[0].click()
    until(lambda: "Served now" in text(browser))
    assert NASTY in text(browser)  # what the user has rated
    assert labels(browser, "ul.list .stars") == ["5 ★"]
    served = httpx.get(f"{url}/users/{quote(USER, safe='')}").json()["served"]
    assert f"in cluster {served['cluster_id']}." in text(browser)
    assert len(shown(browser, "ol.list")[0].find_elements(By.TAG_NAME, "li")) == 13
    browser.find_element(By.PARTIAL_LINK_TEXT, "alert(1)").click()
    until(lambda: "/ui/restaurants/" in browser.current_url)
    assert labels(browser, "main p code") == [RESTAURANT]


def a_cluster_is_explained(browser: webdriver.Chrome, url: str) -> None:
    browser.get(f"{url}/ui/clusters")
    listed = httpx.get(f"{url}/clusters").json()["clusters"]
    number = next(one["cluster_id"] for one in listed if one["stands_out"])
    cluster = httpx.get(f"{url}/clusters/{number}").json()
    apart, names = cluster["stands_out"], [e["name"] for e in cluster["recommendations"]]
    assert [e["name"] for e in apart[:3] if e["name"] not in text(browser)] == []
    browser.find_element(By.LINK_TEXT, str(number)).click()
    until(lambda: labels(browser, "h1") == [f"Cluster {number}"])
    assert labels(browser, "td:nth-child(1)") == [e["name"] for e in apart]
    for column, digits, share in ((2, 0, "share"), (3, 1, "city_share")):
        shares = [f"{100 * e[share]:.{digits}f} %" for e in apart]
        assert labels(browser, f"td:nth-child({column})") == shares
    assert labels(browser, "ol.list li > span:first-of-type") == names
    shown(browser, "ol.list a")[0].click()
    until(lambda: "/ui/restaurants/" in browser.current_url)
    listing = labels(browser, "ul.list a")
    assert {label.partition(" ")[0] for label in listing} == {"Cluster"}


def a_new_user_gets_a_list(browser: webdriver.Chrome, url: str) -> None:
    browser.get(f"{url}/ui/try")
    shown(browser, "#q")[0].send_keys("<script>")
    until(lambda: len(shown(browser, ".give")) == 1)
    press(browser, f"5 stars for {NASTY}")
    until(lambda: len(shown(browser, "ol.list li")) == 13)
    assert "because of" in text(browser)
    browser.refresh()  # the address holds the ratings
    assert len(shown(browser, "ol.list li")) == 13
    press(browser, f"Remove the rating of {NASTY}")
    until(lambda: not shown(browser, "ol.list"))


def the_schedule_is_paused_and_resumed(browser: webdriver.Chrome, url: str) -> None:
    browser.get(url)
    press(browser, "Pause the schedule")
    until(lambda: shown(browser, PAUSED))
    assert httpx.get(f"{url}/next-training").json()["paused"] is True
    httpx.put(f"{url}/schedule", json={"paused": False})  # by another browser
    until(lambda: not shown(browser, PAUSED))
    for pressed, then in (("Pause", "Resume"), ("Resume", "Pause")):
        press(browser, f"{pressed} the schedule")
        until(lambda then=then: focused(browser) == f"{then} the schedule")  # type: ignore[misc]
    assert httpx.get(f"{url}/next-training").json()["paused"] is False


def a_message_is_not_ended_by_the_one_before(browser: webdriver.Chrome) -> None:
    ending = """const timers = [], set = setTimeout;
        window.setTimeout = (end, ms, ...rest) => timers.push(() => end(...rest));
        say("first"), say("second"), timers[0]();
        const during = document.getElementById("message").textContent;
        timers[1](), window.setTimeout = set;
        return [during, document.getElementById("message").textContent];"""
    assert browser.execute_script(ending) == ["second", ""]


def of_two_browsers_one_starts_a_training_and_the_other_cancels_it(
    browser: webdriver.Chrome, url: str, db: MongoDatabase
) -> None:
    live, first = served_of(db), browser.current_window_handle
    browser.get(url)
    hidden = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    browser.execute_script(hidden)  # so that it does not notice yet
    browser.switch_to.new_window("tab")
    emulate(browser, min(WIDTHS), "light")
    browser.get(url)
    press(browser, "Train now")
    until(lambda: " left" in "".join(labels(browser, ".card p")))  # how long it may take
    (run_id,) = (run["run_id"] for run in httpx.get(f"{url}/runs?limit=1").json()["runs"])
    browser.get(f"{url}/ui/runs/{run_id}")
    browser.execute_script("events.close()")  # as a proxy's 503 does, while the service restarts
    second = browser.current_window_handle
    browser.switch_to.window(first)
    press(browser, "Train now")
    until(lambda: run_id in labels(browser, "#message")[0])
    assert all("409" in error for error in errors_of(browser))
    browser.execute_script("delete document.hidden")
    until(lambda: shown(browser, ".card .state"))  # without a reload
    press(browser, "Cancel")
    confirm(browser)
    until(lambda: "Train now" in labels(browser, ".calls button"), TRAINING_SECONDS)
    run = db["TrainingRuns"].find_one({"run_id": run_id}) or {}
    assert (run["state"], run["exit_code"]) == ("cancelled", 143)
    assert served_of(db) == live
    browser.switch_to.window(second)
    until(lambda: labels(browser, "h1 .state") == ["cancelled"])  # without a reload
    browser.close()
    browser.switch_to.window(first)


def a_clustering_is_rolled_back(browser: webdriver.Chrome, url: str, db: MongoDatabase) -> None:
    lists, clusters = served_of(db)
    assert lists != clusters
    press(browser, "Roll back")
    confirm(browser)
    rolled_back = {"state": "succeeded", "kind": "rollback"}
    until(lambda: db["TrainingRuns"].count_documents(rolled_back), TRAINING_SECONDS)
    assert served_of(db) == (lists, lists)  # the clusters that the training has published
    until(lambda: "Train now" in labels(browser, ".calls button"))


def a_mongodb_that_hangs_is_named(browser: webdriver.Chrome, url: str, db: MongoDatabase) -> None:
    mongod = psutil.Process(db.client.admin.command("serverStatus")["pid"])
    assert errors_of(browser) == []
    mongod.suspend()
    try:
        browser.get(url)
        assert "MONGO_URI" in text(browser)
        assert Axe().run(browser)["violations"] == []
    finally:
        mongod.resume()
    assert all("503" in error for error in errors_of(browser))
    until(lambda: httpx.get(url).status_code == 200)


def a_restart_of_the_service_is_survived(
    browser: webdriver.Chrome, url: str, settings: Settings
) -> None:
    press(browser, "Pause the schedule")
    until(lambda: any(labels(browser, "#message")))
    with service(settings, PORT=url.rpartition(":")[2]):
        httpx.put(f"{url}/schedule", json={"paused": True})
        until(lambda: shown(browser, PAUSED))  # without a reload
    assert all("ERR_CONNECTION_REFUSED" in error for error in errors_of(browser))


def served_of(db: MongoDatabase) -> tuple[str, str]:
    """Return the runs that have published the lists and the clusters."""
    lists, clusters = (db[name].find_one() or {} for name in ("Recommendations", "Clusters"))
    return lists["run_id"], clusters["run_id"]


def every_page_fits_and_is_accessible(
    browser: webdriver.Chrome, url: str, db: MongoDatabase
) -> None:
    runs = [run["run_id"] for run in db["TrainingRuns"].find({"trigger": "api"}).limit(2)]
    listed = (db["Recommendations"].find_one() or {})["recommendations"][0]["gmap_id"]
    pages = ["/", "/ui/runs", f"/ui/runs/{runs[0]}", "/ui/quality", "/ui/clusters"]
    pages += ["/ui/clusters/1", "/ui/users", "/ui/restaurants", "/ui/try?q=script", "/ui/login"]
    pages += [
        "/ui/users/a%2Fb%3Fc%25d%0Ae",
        f"/ui/compare?run={runs[0]}&run={runs[1]}",
        f"/ui/restaurants/{quote(str(listed), safe='')}",
    ]
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            emulate(browser, width, scheme)
            for path in pages:
                browser.get(url + path)
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, path
                assert browser.execute_script(TALLEST) < 700, path
                violations: list[Any] = Axe().run(browser)["violations"]
                assert [(v["id"], v["nodes"][0]["html"]) for v in violations] == [], path


def emulate(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
