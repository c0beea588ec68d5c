"""From the collections of the backend to clean ratings.

Input: ``Reviews``, ``Users``, ``Restaurants`` and files. Output: :class:`~.ratings.Ratings`: each
pair of user and restaurant once, both numbered. Open ``ratings.py`` first, then ``cleaning.py``.
"""
