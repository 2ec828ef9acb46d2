"""MarkReconciled: the search has come to its end; writes its report.

in      the search, with plan and what it has found
out     the report: {"state": "RECONCILED", "started_at", "finished_at": Unix seconds, "dry_run", "backfill",
         "events": FindMissedEvents' counts, "users": ScanUsers', "drift": CheckDrift's, "mended": MendDrift's}; what
         was not looked for is not in it
raises  LedgerThrottled, LedgerUnavailable (passing);
        LedgerRejected (lasting)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.ledger import Ledger
from gateway.searches import KEPT, SETTLED, report_of
from gateway.settings import required
from gateway.step import Search, search_step
from gateway.telemetry import metrics

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@search_step
def handler(search: Search) -> dict[str, Any]:
    plan, now = search.plan, int(time.time())
    report = {"state": "RECONCILED", "finished_at": now, **report_of(search)}
    if plan["find_events"] and not plan["dry_run"]:
        ledger.know_events_until(plan["started"] - SETTLED)
    ledger.write_report(search.id, plan["started"], report, now + KEPT)
    metrics.add_metric("Reconciled", MetricUnit.Count, 1)
    return report
