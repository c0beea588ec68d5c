"""Stable cluster ids, against all permutations."""

from itertools import permutations

import numpy as np

from recommender.clustering.stable_ids import matched_ids, users_moved


def test_no_permutation_keeps_more_users_in_their_cluster() -> None:
    for k_before in (2, 4, 6):
        rng = np.random.default_rng(k_before)
        labels = rng.integers(-1, 4, 60).astype(np.int32)
        previous = rng.integers(-1, k_before, 60).astype(np.int32)
        both = (labels >= 0) & (previous >= 0)
        staying = {
            order: np.count_nonzero(np.take(order, labels[both]) == previous[both])
            for order in permutations(range(4))
        }
        assert staying[tuple(matched_ids(labels, previous, 4))] == max(staying.values())


def test_a_permuted_clustering_gets_its_ids_back() -> None:
    rng = np.random.default_rng(0)
    previous = rng.integers(0, 7, 200).astype(np.int32)
    shuffled = rng.permutation(7)
    labels = shuffled[previous].astype(np.int32)
    ids = matched_ids(labels, previous, 7)
    assert (ids[labels] == previous).all()


def test_without_common_users_each_id_is_used_once() -> None:
    none = np.full(3, -1, dtype=np.int32)
    assert sorted(matched_ids(np.array([0, 1, 2], np.int32), none, 3)) == [0, 1, 2]


def test_users_with_another_cluster_or_none_have_moved() -> None:
    now, before = np.array([0, 1, -1, 2, -1], np.int32), np.array([0, 2, 1, -1, -1], np.int32)
    assert users_moved(now, before) == 2
