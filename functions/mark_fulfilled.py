"""MarkFulfilled: nothing is missing, so this order is done, and so is every order recorded before of the same people.

in      the run
out     {"outcome": why nothing is missing, "closed": number of orders}
raises  LedgerThrottled, LedgerUnavailable (passing)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import access, aws
from gateway.ledger import CLOCK_SKEW, Ledger
from gateway.settings import required
from gateway.step import Run, step
from gateway.telemetry import count, metrics

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@count
@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    outcome = access.outcome(run.access, run.user)
    ending = {"execution": run.execution, "outcome": outcome, "reason": run.access.reason, **run.change_so_far}
    closed = 0
    for party in run.parties:
        for event_id in ledger.open_orders(party, run.read_at - CLOCK_SKEW):
            closed += ledger.close(event_id, now, **ending)
    person = ledger.person(run.sub) if run.user.linked else None
    settled = (run.access.units, None, None)
    if person is not None and (person.granted, person.recheck_at, run.access.recheck_at) != settled:
        ledger.settle(person.sub, read_at=run.read_at, recheck_at=run.access.recheck_at, granted=run.access.units)
    # Last: as long as this order is open, a run that dies here is run again and closes the rest.
    closed += ledger.close(run.event_id, now, **ending)
    metrics.add_metric("OrderFulfilled", MetricUnit.Count, closed)
    return {"outcome": outcome, "closed": closed}
