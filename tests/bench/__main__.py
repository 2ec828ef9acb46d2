"""The benchmarks, one after the other: `make bench`, or `python -m tests.bench NAME…` for some of them.

Each is a module beside this one with `bench()`; it says in its first lines what is measured, and against what.
"""

import importlib
import sys

BENCHES = ("authorizer",)

for name in sys.argv[1:] or BENCHES:
    importlib.import_module(f"tests.bench.{name}").bench()
