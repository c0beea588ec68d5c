"""What is shown of a search."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from recommender.grids import BASELINE, PREFERENCE, RATING, Parameters, Search
from recommender.standings import best_of, document_of, svg_of, table_of
from recommender.tuning import Candidate, Outcome

SVG = "{http://www.w3.org/2000/svg}"


def candidate(
    alpha: float,
    reg: float,
    *figures: float,
    in_force: bool = False,
    half_life: float | None = None,
) -> Candidate:
    parameters: Parameters = {"als_preference_reg_param": reg, "als_alpha": alpha}
    parameters |= {"als_preference_rank": 8, "als_preference_max_iter": 10}
    parameters |= {"als_half_life_days": half_life}
    outcomes = {fold: Outcome(figure, 1.5) for fold, figure in enumerate(figures)}
    return Candidate(PREFERENCE, parameters, in_force=in_force, outcomes=outcomes)


def found() -> list[Candidate]:
    failed = candidate(5, 8)
    failed.outcomes[0] = Outcome(None, 1.0, "not finite")
    return [
        candidate(5, 2, 0.1, 0.2, in_force=True),
        candidate(5, 4, 0.3, 0.31),
        candidate(20, 2, 0.2, 0.21),
        candidate(20, 4, 0.25),
        failed,
        candidate(20, 8),
    ]


def test_the_table_has_the_best_first_and_says_what_is_missing() -> None:
    lines = table_of(found(), PREFERENCE, 2).splitlines()
    assert lines[0] == "preference: NDCG, most first, over 2 folds"
    assert [line.split()[0] for line in lines[2:5]] == ["0.3050", "0.2050", "0.1500"]
    assert lines[2].split() == ["0.3050", "0.0071", "3.0", "4", "5", "8", "10", "unset"]
    assert [line.endswith("<- in force") for line in lines] == [i == 4 for i in range(len(lines))]
    assert lines[5].split()[:2] == ["none", "none"]
    assert lines[6].strip() == "not finite"
    assert lines[7].strip() == "2 of 6 candidates were not reached within the budget"
    assert len(lines) == 8


def test_a_single_fold_has_no_deviation() -> None:
    line = table_of([candidate(5, 2, 0.1)], PREFERENCE, 1).splitlines()[2]
    assert line.split()[:2] == ["0.1000", "none"]


def test_the_ledger_gets_all_figures() -> None:
    document = document_of(found(), PREFERENCE, 2)
    assert (document["candidates"], document["complete"], document["measure"]) == (6, 3, "NDCG")
    assert document["table"][0]["folds"] == [0.3, 0.31]
    assert document["table"][2]["in_force"]
    assert document["failed"][0]["reason"] == "not finite"


def test_there_is_no_best_while_none_is_complete() -> None:
    assert best_of([candidate(5, 2, 0.1)], PREFERENCE, 2) is None
    assert best_of(found(), RATING, 2) is None
    assert best_of(found(), PREFERENCE, 2) is not None


def test_the_drawing_has_a_dot_for_each_complete_candidate_within_the_sheet() -> None:
    root = ElementTree.fromstring(svg_of(found(), [BASELINE, PREFERENCE], 2))
    dots = [dot for dot in root.iter(f"{SVG}circle") if dot.attrib["fill"] != "none"]
    assert len(dots) == 3 + 1  # the best is drawn over once more
    _, _, width, height = (float(x) for x in root.attrib["viewBox"].split())
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots]
    assert all(60 <= x <= width - 300 and 60 <= y <= height - 50 for x, y in places)
    best, lowest = places[-1], max(places, key=lambda place: place[1])
    assert best[1] < lowest[1]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "ALS_PREFERENCE_REG_PARAM" in texts
    assert {"alpha 5", "alpha 20", "in force", "best"} <= set(texts)
    assert not any("baseline" in (text or "") for text in texts)  # it has nothing to show


@pytest.mark.parametrize("searches", [[], [RATING]])
def test_nothing_found_is_an_empty_sheet(searches: list[Search]) -> None:
    root = ElementTree.fromstring(svg_of([], searches, 3))
    assert not list(root.iter(f"{SVG}circle"))


def test_more_lines_than_the_legend_has_room_for_are_still_drawn() -> None:
    many = [candidate(alpha, reg, 0.1 + alpha / 1000) for alpha in range(20) for reg in range(30)]
    root = ElementTree.fromstring(svg_of(many, [PREFERENCE], 1))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "and more lines; the table has them all" in texts
    assert len(list(root.iter(f"{SVG}polyline"))) == 20 + 14


def test_a_value_that_is_not_set_is_shown_as_such_and_after_the_others() -> None:
    tried: list[tuple[float | None, float]] = [(None, 0.2), (365.0, 0.3), (30.0, 0.1)]
    many = [candidate(5, 2, figure, half_life=days) for days, figure in tried]
    lines = table_of(many, PREFERENCE, 1).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["365", "unset", "30"]
    root = ElementTree.fromstring(svg_of(many, [PREFERENCE], 1))
    ticks = [t for t in root.iter(f"{SVG}text") if t.text in {"30", "365", "unset"}]
    by_place = sorted(ticks, key=lambda t: float(t.attrib["x"]))
    assert [tick.text for tick in by_place] == ["30", "365", "unset"]
