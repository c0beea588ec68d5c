"""The ids of clusters from one training to the next, against all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from recommender.matching import matched_ids, users_moved


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k_before", [2, 4, 6])
def test_no_other_numbering_leaves_more_users_where_they_were(seed: int, k_before: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, 60).astype(np.int32)
    previous = rng.integers(-1, k_before, 60).astype(np.int32)
    ids = matched_ids(labels, previous, 4)
    assert sorted(ids) == [0, 1, 2, 3]

    def staying(numbering: tuple[int, ...]) -> int:
        return sum(
            p >= 0 and label >= 0 and numbering[label] == p
            for label, p in zip(labels, previous, strict=True)
        )

    assert staying(tuple(ids)) == max(staying(order) for order in permutations(range(4)))


def test_a_renumbered_clustering_gets_its_numbers_back() -> None:
    rng = np.random.default_rng(0)
    previous = rng.integers(0, 7, 200).astype(np.int32)
    shuffled = rng.permutation(7)
    labels = shuffled[previous].astype(np.int32)
    ids = matched_ids(labels, previous, 7)
    assert (ids[labels] == previous).all()


def test_without_users_in_common_all_ids_are_given_once() -> None:
    nobody = np.full(3, -1, dtype=np.int32)
    assert sorted(matched_ids(np.array([0, 1, 2], np.int32), nobody, 3)) == [0, 1, 2]


def test_who_had_a_cluster_and_has_another_or_none_has_moved() -> None:
    now, before = np.array([0, 1, -1, 2, -1], np.int32), np.array([0, 2, 1, -1, -1], np.int32)
    assert users_moved(now, before) == 2
