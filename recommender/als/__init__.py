"""ALS: from ratings to a model, and from the model to every user's recommendations.

Input: ratings. Output: the documents of ``Recommendations`` and the published item factors. Open
``fit.py`` first for how a model is made, ``recommend.py`` for what is made of it.
"""
