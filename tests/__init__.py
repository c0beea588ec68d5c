"""The tests, of which two processes run on two cores: one thread of BLAS for each."""

import os

# Read when numpy is loaded, also by the scripts that tests start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
