"""One thread for each worker: several that take turns on one processor wait for each other most of the time."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.support.planted.opsets"]
