"""A fit, one step after the other."""

from pyspark.sql import SparkSession

from recommender.als.fit import fit_preferences, fit_rating
from recommender.als.model import Model
from recommender.als.reuse import ChosenParameters
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings


def fit_model(
    spark: SparkSession, ratings: Ratings, settings: Settings, chosen: ChosenParameters | None
) -> Model:
    """Fit as a training does, which fits ratings beside the choice of the other parameters."""
    rating = fit_rating(spark, ratings, settings, chosen.damping if chosen else None)
    if chosen is None:
        return Model(rating, None)
    return Model(rating, fit_preferences(spark, ratings, settings, chosen.preference))
