"""Reconciliation at scale: a pool of so many customers, one in a hundred of whom has drifted in each way there is.

Four searches of everything: one while all is in line, a dry run over what has drifted, one that mends it, and one that
has to find nothing more. Time and requests must grow as the number of customers does, and memory must not.
`python -m tests.bench.reconciliation CUSTOMERS` plays it in a process of its own and prints what came of it.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.load import in_own_process
from tests.bench.measure import Bar, Table
from tests.local.population import KINDS, counts, drift, populate, snapshot, subjects, touched, wrongs

if TYPE_CHECKING:
    from tests.e2e.conftest import Gateway

SIZES = (1_000, 20_000)
SHARE = 0.01
PARAMETERS = {"RepairsPerSecond": "1000", "MaxDisabled": "10000", "MaxDisabledPercent": "50"}
"""Neither the pace nor the cap is measured here."""
AGES = (3600, 2 * 86_400)
"""Seconds since the events that nobody delivered: since the last search, and before."""
LONGEST = 3600
"""Seconds that one search, with all that it mends, may take."""
COUNTS = {
    "search while all is in line, seconds": "quiet_seconds",
    "its requests to Stripe": "stripe_requests",
    "its requests to Cognito": "cognito_requests",
    "its requests to DynamoDB": "ledger_requests",
    "search that mends what has drifted, seconds": "mending_seconds",
    "runs that mended": "runs",
}
WRONGS = {"touched by a dry run": "dry_touched", "left over": "left_over", "touched besides": "touched_besides"}
NOTE = (
    f"One in a hundred each: {', '.join(KINDS).replace('_', ' ')}. Stripe, Cognito, DynamoDB and Step Functions ran "
    "beside the searches, on the same machine. Left over: who does not stand as they should in the pool, the ledger or "
    "for the authorizer. Touched besides: whose user, rows or subscriptions changed although nothing was wrong."
)


@dataclass(frozen=True)
class Outcome:
    """What came of it. `drifted` and `found` by kind; the requests are those of the search in which all was in line;
    `memory` of a function at its peak, in bytes."""

    people: int
    drifted: dict[str, int]
    found: dict[str, int]
    missed: int
    in_line: int
    dry_touched: list[str]
    left_over: list[str]
    touched_besides: list[str]
    found_after: int
    quiet_seconds: float
    mending_seconds: float
    runs: int
    stripe_requests: int
    cognito_requests: int
    ledger_requests: int
    scan_memory: int
    compare_memory: int


def play(gateway: "Gateway", size: int) -> Outcome:
    """Play it on a stack that has nobody yet."""
    stack = gateway.stack
    population = populate(stack, gateway.stripe, size)
    before = snapshot(population)
    calls, asked = len(stack.calls), len(gateway.stripe.requests)
    quiet, quiet_seconds = _search(gateway, find="all")
    services = Counter(call.action.partition(":")[0] for call in stack.calls[calls:])
    asked = len(gateway.stripe.requests) - asked
    assert touched(population, before, snapshot(population)) == set()
    told = len(gateway.stripe.events)
    drifted = drift(population, SHARE)
    for turn, event in enumerate(gateway.stripe.events[told:]):  # what is younger may still be on its way
        gateway.stripe.stored("event", event["id"])["created"] -= AGES[turn % len(AGES)]
    before = snapshot(population)
    _search(gateway, find="all", dry_run=True)
    dry_touched = touched(population, before, snapshot(population))
    runs = len(stack.executions())
    mended, mending_seconds = _search(gateway, find="all")
    runs = len(stack.executions()) - runs - 1
    after = snapshot(population)
    last, _ = _search(gateway, find="drift")
    return Outcome(
        people=len(population.people),
        drifted=dict(counts(drifted)),
        found=mended["drift"]["kinds"],
        missed=mended["events"]["missed"],
        in_line=quiet["drift"]["found"],
        dry_touched=sorted(dry_touched),
        left_over=wrongs(population, drifted),
        touched_besides=sorted(touched(population, before, after) - subjects(drifted)),
        found_after=last["drift"]["found"],
        quiet_seconds=round(quiet_seconds, 1),
        mending_seconds=round(mending_seconds, 1),
        runs=runs,
        stripe_requests=asked,
        cognito_requests=services["cognito-idp"],
        ledger_requests=services["dynamodb"],
        scan_memory=stack.peak_memory("ScanUsersFunction"),
        compare_memory=stack.peak_memory("CompareShardFunction"),
    )


def _search(gateway: "Gateway", **asked: Any) -> tuple[dict[str, Any], float]:
    """The report of a search, and the seconds that it took, with all that it mended."""
    began = time.monotonic()
    execution = gateway.reconcile(seconds=LONGEST, **asked)
    assert execution.status == "SUCCEEDED", (execution.error, execution.cause)
    return execution.output["report"], time.monotonic() - began


def bench() -> Table:
    few, many = (Outcome(**in_own_process("tests.bench.reconciliation", str(size))) for size in SIZES)
    factor = many.people / few.people
    rows = [("customers", f"{few.people:,}", f"{many.people:,}", f"{factor:.1f}")]
    for meaning, name in COUNTS.items():
        one, other = getattr(few, name), getattr(many, name)
        rows.append((meaning, f"{one:,}", f"{other:,}", f"{other / one:.1f}"))
    for name, one, other in (
        ("ScanUsers", few.scan_memory, many.scan_memory),
        ("CompareShard", few.compare_memory, many.compare_memory),
    ):
        rows.append((f"peak memory of {name}", f"{one >> 20} MB", f"{other >> 20} MB", f"{other / one:.2f}"))
    for meaning, name in WRONGS.items():
        rows.append((f"{meaning} (goal 0)", f"{len(getattr(few, name)):,}", f"{len(getattr(many, name)):,}", ""))
    bars = [
        Bar("reconciliation, time per customer: 20,000 against 1,000", many.quiet_seconds / few.quiet_seconds / factor),
        Bar("reconciliation, memory of CompareShard: likewise", many.compare_memory / few.compare_memory),
    ]
    columns = ("", f"{SIZES[0]:,}", f"{SIZES[1]:,}", "grows by")
    return Table("Reconciliation", columns, rows, NOTE, bars)


def main(size: int) -> None:
    """Play it here, and print the outcome as JSON."""
    from tests.local.isolation import forget_the_world

    forget_the_world()
    from tests.e2e.conftest import Gateway

    with tempfile.TemporaryDirectory() as folder, Gateway(Path(folder), **PARAMETERS) as gateway:
        print(json.dumps(asdict(play(gateway, size))))


if __name__ == "__main__":
    main(int(sys.argv[1]))
