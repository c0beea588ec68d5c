"""Alternating least squares: fits, fold-in, and the parameters that are chosen for them.

In come ratings, as sparse users x items matrices; out go factors that rank items or predict
ratings. Open ``sweeps.py`` first: its half-step serves training, fold-in and evaluation.
"""
