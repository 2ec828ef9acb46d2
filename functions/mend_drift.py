"""MendDrift: has billing look at everybody who differs, at a pace that Cognito and Stripe can take.

in      the search, with plan and drift
out     {"done": whether that was all, "cursor": whom the last run was for, "started": runs, "left": people whom only an
         operator can mend}
raises  LedgerThrottled, LedgerUnavailable, StartThrottled, StartUnavailable (passing);
        LedgerRejected, StartRejected (lasting)

Each run decides anew, so what has changed since it was found does no harm. A call that is repeated starts nothing
twice.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from gateway import aws
from gateway.drift import WRITES
from gateway.executions import StateMachine
from gateway.ledger import Ledger
from gateway.rechecks import look_again
from gateway.searches import Pace, Turn
from gateway.settings import required, whole_number
from gateway.step import Search, search_step
from gateway.telemetry import logger

LIVEMODE = required("STRIPE_MODE") == "live"
PER_SECOND = whole_number("REPAIRS_PER_SECOND")

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
fulfillment = StateMachine(aws.client("stepfunctions"), required("STATE_MACHINE_ARN"))


@search_step
def handler(search: Search) -> dict[str, Any]:
    # A person takes a moment here, and an execution has room for a few thousand calls.
    before, turn, pace = search.before("mended"), Turn(2), Pace(PER_SECOND)
    cursor, started, left = before.get("cursor"), before.get("started", 0), before.get("left", 0)
    done = True
    for row in ledger.drifts(search.id, cursor):
        if row.get("party") is None:
            left += 1
            logger.error("DriftLeft: %s is %s, and no customer says whose", row["sk"], row["kind"])
        else:
            pace.take(_writes(row))
            _mend(row, search)
            started += 1
        cursor, done = row["sk"], not turn.over
        if not done:
            break
    return {"done": done, "cursor": cursor, "started": started, "left": left}


def _writes(row: Mapping[str, Any]) -> int:
    """How many writes to users the run causes, at most. A user who is created has a quota of their own."""
    created = row["kind"] == "paid_without_access" and row.get("sub") is None
    return 1 if created else WRITES[row["kind"]]


def _mend(row: Mapping[str, Any], search: Search) -> None:
    if row["relink"]:
        ledger.link([row["party"]], row["sub"], replacing=row.get("replacing"))
    asked = hashlib.sha256(f"{search.id} {row['sk']}".encode()).hexdigest()[:32]
    look_again(row["party"], ledger, fulfillment, livemode=LIVEMODE, asked=asked, at=int(search.plan["started"]))
