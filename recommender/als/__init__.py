"""ALS: from ratings to a model, and from the model to every user's recommendations.

Input: ratings. Output: documents of ``Recommendations``, item factors. Open ``fit.py`` first.
"""
