"""An operation on sparse matrices that scipy lacks."""

import numpy as np
from scipy.sparse import csr_array


def stored_entries(matrix: csr_array) -> csr_array:
    """Return a bool matrix, true at each stored entry, of 0 or not."""
    stored = np.ones(matrix.nnz, dtype=np.bool_)
    return csr_array((stored, matrix.indices, matrix.indptr), shape=matrix.shape)
