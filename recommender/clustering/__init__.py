"""Clusters of users: found on an embedding or on ratings, scored, and published for any backend.

Input: ratings. Output: the documents of ``Clusters`` and ``Metadata``. Open ``fit.py`` first, then
``scoring.py``. The spectral embedding is that of preferences: ``als/spectral_embedding.py``.
"""
