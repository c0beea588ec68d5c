"""The users that MLlib is fitted to."""

import numpy as np
import pytest

from recommender.als.confidence import mllib_users
from tests.support import ratings_of

# Twenty users who have rated 1 to 5 restaurants each, the same number every fifth.
STAIRCASE = ratings_of([(f"u{i:02}", f"r{j}", 3) for i in range(20) for j in range(i % 5 + 1)])


def test_they_have_two_ratings_or_more() -> None:
    assert mllib_users(STAIRCASE, 20, seed=0).tolist() == [False, True, True, True, True] * 4


def test_they_are_drawn_by_their_number_of_ratings() -> None:
    drawn = np.zeros(5)
    for seed in range(200):
        chosen = mllib_users(STAIRCASE, 4, seed)
        assert chosen.sum() == 4
        drawn += chosen.reshape(4, 5).sum(axis=0)
    assert drawn[0] == 0
    # Users of 2 to 5 ratings have weights 1 : 2 : 3 : 4, flattened as the heavy ones run out.
    assert drawn[1:] / drawn.sum() == pytest.approx([0.11, 0.21, 0.31, 0.37], abs=0.05)
