"""How ratings are split into train and test, and what a model is measured by.

Input: ratings and plain arrays. Output: train and test ratings, figures. Open ``metrics.py`` first.
"""
