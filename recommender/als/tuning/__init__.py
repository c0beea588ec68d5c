"""``als_training.py --tune``: a search for better parameters, with the fits of trainings.

In come ratings and a grid; out go a table, a plot and lines for ``.env``. Open ``search.py`` first.
"""
