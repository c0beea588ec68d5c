"""What the scripts of the Restaurant Recommender Model Service share, one folder a room.

Data flows one way: reviews become ratings (``data``), ratings become models and recommendations
(``als``, ``clustering``), and these are staged and swapped in (``publishing``). ``service`` starts
trainings, ``runs`` records them. ``docs/architecture.md`` draws the rooms and their imports.
"""
