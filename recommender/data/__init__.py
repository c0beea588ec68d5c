"""From the collections of the backend to clean ratings.

In come ``Reviews``, ``Users``, ``Restaurants`` and files; out go :class:`~.ratings.Ratings`: each
pair of user and restaurant once, both numbered. Open ``ratings.py`` first, then ``cleaning.py``.
"""
