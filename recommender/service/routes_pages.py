"""The page: ``/`` and ``/ui/...``, for people; each is rendered here and changes nothing."""

import hmac
import math
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from recommender.core.mongo import Document, quick_read
from recommender.core.plots import LineChart, Point, keep_cache_in, line_charts_svg
from recommender.core.settings import Settings
from recommender.runs.ledger import LISTS_PUBLISHED, OPEN_STATES, STATES, Ledger, State
from recommender.runs.switch import replaced_generations
from recommender.service.dependencies import (
    PAGE_COOKIE,
    CurrentService,
    Service,
    document_of,
    end_of_log,
    page_token,
    rated_from_query,
    require_same_origin,
)
from recommender.service.pages import PageRoute, render

_RUNS = 50
_LOG_BYTES = 40_000
_MATCHES, _LISTED, _MOST_STARS = 6, 30, 10
_OWN = {"_id", "run_id", "pid", "log"}  # fields that differ between any two runs
_SHOWN = {"als", "lists", "clusters", "hindsight"}  # metrics with a section of their own
_COOKIE_SECONDS = 30 * 86_400
# What two runs are compared by first: the beginnings of dotted names.
_CAUSES = ("forced", "settings.", "versions.")
_EFFECTS = (
    *("state", "exit_code", "error", "ratings", "users", "restaurants"),
    *("metrics.lists.ndcg", "metrics.lists.lift", "metrics.lists.hit_rate"),
    *("metrics.lists.coverage", "metrics.als.rmse", "metrics.clusters.held_out.ndcg"),
    *("chosen.confidence.", "chosen.weights."),
)

# The metrics of each chart: their dotted names by their labels.
_NDCG = {"ours": "lists.ndcg", "popular": "lists.popular.ndcg", "random": "lists.random.ndcg"}
_RMSE = {"ours": "als.rmse", "biases": "als.baseline_rmse", "mean": "als.mean_rmse"}
_COVERAGE = {"ours": "lists.coverage", "popular": "lists.popular.coverage"}
_CHARTS = {
    "NDCG: higher is better": _NDCG,
    "RMSE of ratings: lower is better": _RMSE,
    "Share of all restaurants in lists": _COVERAGE,
}

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Text = Annotated[str, Query(max_length=300)]


@quick_read("reading the ledger")
def _recent(service: Service, before: str | None = None, **matching: Any) -> list[Document]:
    return Ledger(service.db).recent(_RUNS, before, **matching)


def _trainings(service: Service) -> list[Document]:
    """Return the last trainings that have published lists, also if their clusters failed."""
    published = _recent(service, **LISTS_PUBLISHED)
    return [run for run in published if run["state"] not in OPEN_STATES]


@router.get("/")
def home(request: Request, service: CurrentService) -> Response:
    """Show how the service does: the model, the training in progress, the schedule."""
    runs, trained, served = _recent(service), _trainings(service), service.catalog.run_ids()
    ended = [run for run in runs if run["state"] not in OPEN_STATES]
    ids = [run["run_id"] for run in trained]
    # After a rollback, the training that is served is not the last one.
    at = ids.index(served["lists"]) if served.get("lists") in ids else 0
    good, before = (trained[n] if n < len(trained) else None for n in (at, at + 1))
    last = next((run for run in trained if run["state"] == "succeeded"), None)
    running = next((run for run in runs if run["state"] in OPEN_STATES), None)
    with quick_read("reading the previous generation"):
        replaced = {each["run_id"] for each in replaced_generations(service.db).values()}
    steps = list(_steps(running, last)) if running else []
    trainings = {"good": good, "before": before, "running": running, "last": last, "ended": ended}
    shown = {"schedule": service.schedule, "previous": sorted(filter(None, replaced))}
    return render(request, "home.html", served=served, steps=steps, **trainings, **shown)


def _steps(run: Document, last: Document | None) -> Iterator[Document]:
    """Yield the phases of a run in progress, those to come with their seconds in the last one."""
    phases = last["phases"] if last and run.get("kind") == "training" else []
    took = {phase["name"]: phase["seconds"] for phase in phases}
    done = {phase["name"]: phase["seconds"] for phase in run["phases"]}
    for name in filter(None, dict.fromkeys([*took, *done, run["phase"]])):
        state = "done" if name in done else "now" if name == run["phase"] else "next"
        yield {"name": name, "state": state, "seconds": done.get(name), "expected": took.get(name)}


@router.get("/ui/runs")
def runs(
    request: Request,
    service: CurrentService,
    state: State | None = None,
    before: Text | None = None,
    ticked: int | None = None,
) -> Response:
    """List the runs, to open one or to compare two; ``ticked``, how many were, if not two."""
    runs, served = _recent(service, before, state=state), service.catalog.run_ids().values()
    shown = {"states": STATES, "state": state, "full": _RUNS, "ticked": ticked}
    return render(request, "runs.html", runs=runs, served=served, **shown)


@router.get("/ui/compare")
def compare(
    request: Request, service: CurrentService, run: Annotated[list[str] | None, Query()] = None
) -> Response:
    """Show where two runs differ: what was set and chosen, what came of it, and the rest."""
    if run is None or len(run) != 2:
        return RedirectResponse(f"/ui/runs?ticked={len(run or [])}", 303)
    first, second = (dict(_flat(document_of(service, run_id))) for run_id in sorted(run))
    rows = [(key, first.get(key), second.get(key)) for key in first | second]
    changed = [row for row in rows if row[1] != row[2] and row[0] not in _OWN]
    parts = [
        [row for name in names for row in changed if row[0].startswith(name)]
        for names in (_CAUSES, _EFFECTS)
    ]
    rest = [row for row in changed if not row[0].startswith(_CAUSES + _EFFECTS)]
    same = len(rows) - len(changed)
    runs = [(each["run_id"], each["state"]) for each in (first, second)]
    return render(request, "compare.html", runs=runs, parts=parts, rest=rest, same=same)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a document by their dotted names; phases by theirs."""
    if name == "phases":
        value = {phase["name"]: phase["seconds"] for phase in value}
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


@router.get("/ui/runs/{run_id}")
def run(request: Request, service: CurrentService, run_id: str) -> Response:
    """Show one run: phases, metrics, verdicts, settings and the end of its log."""
    document = document_of(service, run_id)
    earlier = _recent(service, run_id, state="succeeded", **LISTS_PUBLISHED)
    other = {key: part for key, part in document["metrics"].items() if key not in _SHOWN}
    shown = {"other": dict(_flat(other)), "is_open": document["state"] in OPEN_STATES}
    compared = {"defaults": Settings.of({}).public(), "success": next(iter(earlier), None)}
    log = end_of_log(service, run_id, _LOG_BYTES)
    return render(request, "run.html", run=document, log=log, **shown, **compared)


@router.get("/ui/quality")
def quality(request: Request, service: CurrentService) -> Response:
    """Show the quality of the last published trainings."""
    served = service.catalog.run_ids().get("lists")
    return render(request, "quality.html", runs=_trainings(service), served=served)


@router.get("/ui/quality.svg")
def quality_plot(service: CurrentService) -> Response:
    """Draw the quality of the last published trainings beside its baselines."""
    runs = _trainings(service)[::-1]
    ticks = tuple(f"{run['queued_at']:%d %b %H:%M}" for run in runs)
    figures = [dict(_flat(run["metrics"])) for run in runs]
    charts = []
    for title, metrics in _CHARTS.items():
        drawn = [(label, _points(figures, name)) for label, name in metrics.items()]
        charts.append(LineChart(title, "", "", ticks, tuple(line for line in drawn if line[1])))
    keep_cache_in(service.settings.work_dir)
    svg = line_charts_svg(*(chart for chart in charts if chart.lines))
    # Without this, a browser that opens the plot by itself would not apply its styles.
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(svg, media_type="image/svg+xml", headers=policy)


def _points(figures: list[Document], key: str) -> tuple[Point, ...]:
    """Return the points of the runs that have a figure, by its dotted name."""
    return tuple(
        Point(tick, run[key], run.get(f"{key}_error") or 0.0)
        for tick, run in enumerate(figures)
        if run.get(key) is not None
    )


@router.get("/ui/clusters")
def clusters(request: Request, service: CurrentService) -> Response:
    """List the clusters and what sets each apart."""
    served = service.catalog.published()
    return render(request, "clusters.html", clusters=served.clusters(3), names=served.names)


@router.get("/ui/clusters/{cluster_id}")
def cluster(request: Request, service: CurrentService, cluster_id: int) -> Response:
    """Show one cluster."""
    served = service.catalog.published()
    sizes = [each.size for each in served.clusters(0)]
    one = served.cluster(cluster_id)
    return render(request, "cluster.html", cluster=one, sizes=sizes, names=served.names)


@router.get("/ui/users")
def users(request: Request, service: CurrentService, q: Text = "") -> Response:
    """Search users by the beginning of their ids."""
    users = service.catalog.users(q.strip(), _LISTED)
    return render(request, "users.html", q=q, users=users, full=_LISTED)


@router.get("/ui/users/")  # for ids that are no part of a path
@router.get("/ui/users/{user_id:id}")
def user(request: Request, service: CurrentService, user_id: str) -> Response:
    """Show what a user has rated, and is served."""
    names = service.catalog.published().names
    return render(request, "user.html", user=service.catalog.shown_user(user_id), names=names)


@router.get("/ui/restaurants")
def restaurants(request: Request, service: CurrentService, q: Text = "") -> Response:
    """Search restaurants by name."""
    names = service.catalog.published().names
    matches = names.search(q, _LISTED)
    return render(request, "restaurants.html", q=q, matches=matches, full=_LISTED, names=names)


@router.get("/ui/restaurants/")
@router.get("/ui/restaurants/{gmap_id:id}")
def restaurant(request: Request, service: CurrentService, gmap_id: str) -> Response:
    """Show what is similar to a restaurant, and the clusters that list it."""
    served = service.catalog.published()
    shown = {"similar": served.similar(gmap_id, 10), "clusters": served.clusters()}
    return render(request, "restaurant.html", gmap_id=gmap_id, names=served.names, **shown)


@router.get("/ui/try")
def try_out(
    request: Request,
    service: CurrentService,
    q: Text = "",
    rated: Annotated[list[str] | None, Query(max_length=1000)] = None,
    remove: str | None = None,
) -> Response:
    """Recommend to a visitor, who rates restaurants by links; nothing is stored."""
    names = service.catalog.published().names
    ratings = rated_from_query(rated or [])
    ratings.pop(remove or "", None)
    low, high = service.settings.reviews.rating_min, service.settings.reviews.rating_max
    stars = list(range(math.ceil(low), math.floor(high) + 1))[-_MOST_STARS:]
    answer = service.catalog.recommend(ratings) if ratings else None
    shown = {"q": q, "matches": names.search(q, _MATCHES), "names": names, "stars": stars}
    return render(request, "try.html", ratings=ratings, answer=answer, **shown)


@router.get("/ui/login")
def login(request: Request) -> Response:
    """Ask for the API key."""
    return render(request, "login.html", wrong=False, asked=_asked(request))


def _asked(request: Request) -> str:
    """Return the page that was asked for before the key; never one of another site."""
    asked = request.query_params.get("asked", "")
    return asked if asked.startswith("/ui/") else "/"


@router.post("/ui/login", dependencies=[Depends(require_same_origin)])
async def sign_in(request: Request, service: CurrentService) -> Response:
    """Set the page's cookie if the API key is right."""
    sent = parse_qs((await request.body()).decode(errors="replace")).get("key", [""])[0]
    key = service.settings.api.key
    if key is None or not hmac.compare_digest(sent.encode(), key.get_secret_value().encode()):
        return render(request, "login.html", 403, wrong=True, asked=_asked(request))
    response = RedirectResponse(_asked(request), 303)
    options: dict[str, Any] = {"max_age": _COOKIE_SECONDS, "secure": request.url.scheme == "https"}
    response.set_cookie(PAGE_COOKIE, page_token(key), httponly=True, samesite="strict", **options)
    return response


@router.get("/ui{path:path}")
def unknown(request: Request) -> Response:
    """Say that there is no such page; the last route, which gets what no other does."""
    raise HTTPException(404, f"there is no page {request.url.path}; the links above lead to all")
