"""How ratings are split into train and test, and what a model is measured by.

In come ratings and plain arrays; out go train and test ratings, and figures with their standard
errors. Open ``metrics.py`` first.
"""
