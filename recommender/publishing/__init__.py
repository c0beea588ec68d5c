"""How collections are published: staged, checked, compared by the gate, swapped in whole.

Input: documents. Output: ``Recommendations``, ``Clusters`` and ``Metadata``, each of one run. Open
``publish.py`` first, then ``staging.py`` and ``gate.py``.
"""
