"""Times two ways of the same work with pyperf, turn by turn, so that a busy machine slows down both.

What counts is the ratio: times are this machine's, today. The range is that of the rounds' own ratios.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyperf

ROUNDS = 7


@dataclass(frozen=True)
class Way:
    """One way to do the work: arguments of pyperf."""

    arguments: tuple[str, ...]


def process(*command: str) -> Way:
    """A process of Python from its start to its end."""
    return Way(("command", "-p1", "-w1", "-n4", "-l1", "--", sys.executable, *command))


def call(setup: str) -> Way:
    """`call()`, which the setup makes, over and over in a process that is warm."""
    return Way(("timeit", "-p1", "-w1", "-n10", "-l100", "--setup", setup, "call()"))


@dataclass(frozen=True)
class Contest:
    """The same work, done by us and as cheaply as it could be."""

    name: str
    ours: Way
    floor: Way


def compare(title: str, contests: Sequence[Contest], environment: Mapping[str, str]) -> None:
    """Measure, and print a table."""
    print(f"{title:<40}{'ours':>18}{'floor':>18}{'ratio':>8}   range")
    for contest in contests:
        rounds = [(_times(contest.ours, environment), _times(contest.floor, environment)) for _ in range(ROUNDS)]
        ours, floor = ([time for times in side for time in times] for side in zip(*rounds, strict=True))
        ratios = sorted(median(one) / median(other) for one, other in rounds)
        print(
            f"{contest.name:<40}{_shown(ours):>18}{_shown(floor):>18}{median(ours) / median(floor):>8.2f}"
            f"   {ratios[0]:.2f}-{ratios[-1]:.2f}",
            flush=True,
        )


def _times(way: Way, environment: Mapping[str, str]) -> tuple[float, ...]:
    command, *arguments = way.arguments
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        subprocess.run(
            [sys.executable, "-m", "pyperf", command, "--copy-env", "--quiet", "--output", str(path), *arguments],
            env=dict(environment),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return tuple(pyperf.Benchmark.load(str(path)).get_values())


def _shown(times: Sequence[float]) -> str:
    middle = median(times)
    spread = median(abs(each - middle) for each in times)
    return f"{middle * 1000:.2f} ± {spread * 1000:.2f} ms"
