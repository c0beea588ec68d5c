"""A fit, one step after the other."""

from pyspark.sql import SparkSession

from recommender.als.fit import fit_preferences, fit_rating, fit_rating_alone
from recommender.als.model import Model
from recommender.als.reuse import ChosenParameters
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings


def fit_model(
    spark: SparkSession, ratings: Ratings, settings: Settings, chosen: ChosenParameters | None
) -> Model:
    """Fit as a training does, which fits ratings beside the choice of the other parameters."""
    if chosen is None:
        return Model(fit_rating_alone(spark, ratings, settings.als, settings.seed), None)
    rating = fit_rating(spark, ratings, settings, chosen.damping)
    return Model(rating, fit_preferences(spark, ratings, settings, chosen.preference))
