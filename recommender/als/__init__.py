"""Recommendations for known users, by alternating least squares on their ratings.

In: ratings. Out: each user's best unrated restaurants, and item factors to fold new users in with.
"""
