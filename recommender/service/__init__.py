"""The HTTP API: what clients call to start trainings and to read runs and recommendations.

In: requests, and the `Service` that the lifespan of ``model.py`` opens. Out: JSON, errors as
``application/problem+json``. Each ``routes_*.py`` holds one subject's routes with their schemas;
open ``state.py`` first for what they share, ``routes_training.py`` for an example.
"""
