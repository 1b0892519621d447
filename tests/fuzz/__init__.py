"""Bad input at scale: real files are changed at random and read in a child process, thousands of times a reader."""

import os

os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # OpenMP's ends a process that was forked
