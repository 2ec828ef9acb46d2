"""The benchmarks, one after the other. `make bench` runs all and puts what they found into the README;
`python -m tests.bench NAME…` runs some, and only prints.

Each is a module beside this one with `bench()`; it says in its first lines what is measured, and against what.
"""

import importlib
import sys
from pathlib import Path

from tests.bench import report
from tests.bench.measure import Table

BENCHES = ("webhook", "functions", "authorizer", "costs", "throughput", "load", "renewals", "reconciliation")
REPOSITORY = Path(__file__).parents[2]


def main(*names: str) -> None:
    tables: list[Table] = []
    for name in names or BENCHES:
        tables.append(importlib.import_module(f"tests.bench.{name}").bench())
        print(report.text(tables[-1]), flush=True)
    if not names:
        report.draw(tables, Path(__file__).with_name("results.svg"))
        report.write(tables, REPOSITORY / "README.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
