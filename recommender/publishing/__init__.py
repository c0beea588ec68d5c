"""What is published: staged collections, the swap, the gate.

In: documents that a training has computed. Out: whole collections that replace the previous ones at
once, or an error that leaves those in place. Open ``bson_size.py`` for what fits one document.
"""
