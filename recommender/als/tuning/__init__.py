"""``als_training.py --tune``: a search for better parameters, with the fits of trainings.

Input: ratings and a grid. Output: a table and lines for ``.env``. Open ``search.py`` first.
"""
