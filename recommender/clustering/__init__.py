"""Recommendations for new users, by clusters of users who rate the same restaurants.

In: ratings. Out: centroids by which a reader finds a user's cluster, and each cluster's best
restaurants. Open ``clustering_training.py`` first, then ``recommender/clustering/fit.py``.
"""
