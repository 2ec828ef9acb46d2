"""What a benchmark says, and its clock: pyperf times several ways of the same work turn by turn, so that a busy
machine slows down all of them.

What counts is the ratio: times are this machine's, today. The range is that of the rounds' own ratios.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 5


@dataclass(frozen=True)
class Bar:
    """A ratio for the plot; `goal`: what it should be at most."""

    label: str
    ratio: float
    goal: float | None = None


@dataclass(frozen=True)
class Table:
    """What a benchmark found out."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    bars: list[Bar] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """One way to do the work: arguments of Python."""

    arguments: tuple[str, ...]
    work: str = ""


def process(*command: str) -> Way:
    """A process of Python from its start to its end."""
    return Way(("-m", "pyperf", "command", "-p1", "-w1", "-n4", "-l1", "--", sys.executable, *command))


def call(setup: str) -> Way:
    """`call()`, which the setup makes, over and over in a process that is warm."""
    return Way(("-m", "pyperf", "timeit", "-p1", "-w1", "-n10", "-l100", "--setup", setup, "call()"))


def first_answer(work: Mapping[str, Any], colds: int = 3) -> Way:
    """A function's first answer, from the start of its process; `work` is what tests/bench/cold.py takes."""
    return _lambda("cold", work, "-w1", f"-n{colds}", "-l1")


def next_answer(work: Mapping[str, Any]) -> Way:
    """One more answer of a function that is warm."""
    return _lambda("warm", work, "-w1", "-n5", "-l20")


def cpu(work: Mapping[str, Any]) -> Way:
    """CPU time of one more call of the handler."""
    return _lambda("cpu", work, "-w1", "-n10", "-l100")


def _lambda(way: str, work: Mapping[str, Any], *options: str) -> Way:
    return Way(("-m", "tests.bench.cold", "-p1", *options), json.dumps({**work, "way": way}))


@dataclass(frozen=True)
class Round:
    """Seconds of one round; of `first_answer` also CPU seconds and the peak memory in bytes."""

    times: tuple[float, ...]
    cpu: tuple[float, ...] = ()
    memory: int = 0


@dataclass(frozen=True)
class Times:
    """All rounds of a way."""

    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        times = [time for each in self.rounds for time in each.times]
        spread = median(abs(each - self.median) for each in times)
        digits = 0 if self.median >= 0.1 else 2
        return f"{self.median * 1000:.{digits}f} ± {spread * 1000:.{digits}f} ms"

    @property
    def median(self) -> float:
        return median(time for each in self.rounds for time in each.times)

    @property
    def cpu(self) -> float:
        return median(time for each in self.rounds for time in each.cpu)

    @property
    def memory(self) -> int:
        return max(each.memory for each in self.rounds)

    def against(self, other: "Times") -> tuple[float, str]:
        """The ratio of the medians, and the range of the rounds' own ratios."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        ratios = sorted(median(one.times) / median(two.times) for one, two in pairs)
        return self.median / other.median, f"{ratios[0]:.2f}-{ratios[-1]:.2f}"


def turn_by_turn(ways: Sequence[Way], environment: Mapping[str, str], rounds: int = ROUNDS) -> list[Times]:
    """The times of each way."""
    done = [[_round(way, environment) for way in ways] for _ in range(rounds)]
    return [Times(each) for each in zip(*done, strict=True)]


def shown(ratio: float, goal: float | None) -> str:
    """A ratio and its goal, in a table."""
    return f"{ratio:.2f}" if goal is None else f"{ratio:.2f} (goal {goal:g})"


def _round(way: Way, environment: Mapping[str, str]) -> Round:
    import pyperf

    with tempfile.TemporaryDirectory() as folder:
        path, peaks = Path(folder) / "times.json", Path(folder) / "peaks"
        subprocess.run(
            [sys.executable, *way.arguments[:3], "--copy-env", "--quiet", "--output", str(path), *way.arguments[3:]],
            env={**environment, "WORK": way.work, "PEAKS": str(peaks)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times = tuple(pyperf.Benchmark.load(str(path)).get_values())
        lines = peaks.read_text(encoding="utf-8").splitlines() if peaks.exists() else []
        found = [json.loads(line) for line in lines]
        return Round(times, tuple(each["cpu"] for each in found), max((each["memory"] for each in found), default=0))
