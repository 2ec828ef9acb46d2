"""What the demo says on the terminal: steps, the checks of each, and the summary at the end."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

WIDTH = 110


class CheckFailed(Exception):
    """Something is not as it should be; the step ends here."""


@dataclass(frozen=True)
class Result:
    """How a step went."""

    title: str
    outcome: str  # ok, FAILED or not played
    checks: int = 0
    seconds: float = 0.0


class Report:
    """Plays steps and writes down what was checked. Nothing is shown as true that was not compared."""

    def __init__(self, out: TextIO, log: Path) -> None:
        """`log`: where the functions write, named when something fails."""
        self.results: list[Result] = []
        self._out = out
        self._log = log
        self._checks = 0
        self._colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def failed(self) -> bool:
        """Whether any step was not as it should be."""
        return any(result.outcome != "ok" for result in self.results)

    def play(self, title: str, step: Callable[[], None]) -> None:
        """Play a step, unless one before it failed: its story would make no sense."""
        if self.failed:
            self.results.append(Result(title, "not played"))
            return
        self._say(f"\n{self._paint('1', f'{len(self.results) + 1}. {title}')}")
        self._checks, began, outcome = 0, time.monotonic(), "ok"
        try:
            step()
            if not self._checks:
                raise CheckFailed("the step checked nothing")
        except Exception as error:  # whatever it is, the summary must say it
            outcome = "FAILED"
            text = str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
            self._say(self._paint("31", f"   ✗ {text}"))
            self._say(f"     log of the functions: {self._log}")
        self.results.append(Result(title, outcome, self._checks, time.monotonic() - began))

    def check(self, claim: str, actual: object, expected: object) -> None:
        """Compare and show; CheckFailed says what was expected and what was there."""
        if actual != expected:
            raise CheckFailed(f"{claim}\n     expected: {_shown(expected)}\n     actual:   {_shown(actual)}")
        self._checks += 1
        self._say(f"   {self._paint('32', '✓')} {claim}: {_shown(actual)}")

    def tell(self, text: str) -> None:
        """Show what was seen, without a verdict."""
        for line in textwrap.wrap(text, WIDTH - 5, subsequent_indent="   ", break_on_hyphens=False):
            self._say(self._paint("2", f"     {line}"))

    def summary(self) -> int:
        """The table of all steps; the exit status, 0 only when every step was played and right."""
        width = max((len(result.title) for result in self.results), default=0)
        self._say(f"\n     {'step':{width}}  {'result':10}  checks  seconds")
        for number, result in enumerate(self.results, 1):
            outcome = self._paint("32" if result.outcome == "ok" else "31", f"{result.outcome:10}")
            self._say(f"{number:3}. {result.title:{width}}  {outcome}  {result.checks:6}  {result.seconds:7.1f}")
        right = self.results and not self.failed
        checks = sum(result.checks for result in self.results)
        seconds = sum(result.seconds for result in self.results)
        verdict = "everything is as it should be" if right else "NOT as it should be"
        self._say(f"\n{len(self.results)} steps, {checks} checks, {seconds:.0f} s: {verdict}")
        return 0 if right else 1

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | set):
        texts = [_shown(each) for each in value]
        return ", ".join(sorted(texts) if isinstance(value, set) else texts) or "none"
    return "none" if value is None or value == {} else str(value)
