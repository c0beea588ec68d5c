"""The scores of the fallback list."""

import numpy as np
import pytest

from recommender.als.confidence import popularity_scores


def test_popular_items_with_high_ratings_come_first() -> None:
    item = np.repeat([0, 1, 2, 3], [100, 100, 1, 99])
    rating = np.repeat([3.0, 5.0, 5.0, 5.0], [100, 100, 1, 99])
    scores = popularity_scores(item, rating, 5)
    assert np.argsort(-scores).tolist() == [1, 3, 0, 2, 4]
    assert scores[4] == 0
    assert scores[2] == pytest.approx((5 + 10 * rating.mean()) / 11 / 300)
