"""What the tasks of a reconciliation share: when a call ends, how fast it may go, and what is counted and reported."""

import time
from collections.abc import Mapping
from typing import Any

from gateway.drift import KINDS, Kind
from gateway.step import Search

# A task ends itself after this long, and its state calls it again where it was. One page takes far less than what is
# then left of the Lambda's time-out (template.yaml).
TURN_SECONDS = 300

# How long rows are kept that only the searches themselves and their readers need (seconds).
KEPT = 90 * 86_400

# Events younger than this (seconds) may still be on their way; the next search looks at them.
SETTLED = 300

# How each kind is counted.
METRICS: Mapping[Kind, str] = {kind: kind.title().replace("_", "") for kind in KINDS}


class Turn:
    """One call of a task that goes on in the next; `times` as long as usual."""

    def __init__(self, times: int = 1) -> None:
        self._end = time.monotonic() + times * TURN_SECONDS

    @property
    def over(self) -> bool:
        """Whether it is time to end this call."""
        return time.monotonic() >= self._end


class Pace:
    """So much a second and no more."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._free_at = time.monotonic()

    def take(self, amount: int) -> None:
        """Wait until that much more may be done."""
        now = time.monotonic()
        if self._free_at > now:
            time.sleep(self._free_at - now)
        self._free_at = max(now, self._free_at) + amount / self._per_second


def report_of(search: Search) -> dict[str, Any]:
    """What a search has found and done so far, without what it needed to go on."""
    plan = search.before("plan")
    report: dict[str, Any] = {name: plan[name] for name in ("dry_run", "backfill") if name in plan}
    if plan:
        report["started_at"] = plan["started"]
    for result, name in (("events", "events"), ("scan", "users"), ("drift", "drift"), ("mended", "mended")):
        if result in search.state:
            answer = search.before(result)
            report[name] = {key: value for key, value in answer.items() if key not in ("done", "cursor", "mend")}
    return report
