"""MarkNotReconciled: the search had to end before its end; writes its report, with the reason.

in      the search so far, with error
out     {"reason": what an operator reads}
raises  LedgerThrottled, LedgerUnavailable (passing);
        LedgerRejected (lasting)

The next search begins again, so nothing is lost.
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.ledger import Ledger
from gateway.searches import KEPT, report_of
from gateway.settings import required
from gateway.step import Search, failure, search_step
from gateway.telemetry import metrics

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@search_step
def handler(search: Search) -> dict[str, Any]:
    now = int(time.time())
    reason = failure(search.state["error"])
    if reason.startswith("States.ExceedToleratedFailureThreshold"):
        reason = "a shard could not be compared: the failed execution of the Map Run (Step Functions console) says why"
    report: dict[str, Any] = {"state": "NOT_RECONCILED", "finished_at": now, "reason": reason}
    if not reason.startswith("SearchInvalid"):  # whose input may have anything in it
        report |= report_of(search)
    ledger.write_report(search.id, report.get("started_at", now), report, now + KEPT)
    metrics.add_metric("NotReconciled", MetricUnit.Count, 1)
    return {"reason": reason}
