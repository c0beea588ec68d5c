"""How collections are published: staged, checked, compared by the gate, swapped in at once.

In come documents; out go ``Recommendations``, ``Clusters`` and ``Metadata``, each of one run. Open
``publish.py`` first, then ``staging.py`` and ``gate.py``.
"""
