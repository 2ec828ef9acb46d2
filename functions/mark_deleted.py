"""MarkDeleted: nothing is left of the account, so its deletion is done, and its address is forgotten.

in      the deletion; FindRemains saw nothing any more
out     {"deleted": false when more has turned up meanwhile}
raises  LedgerThrottled, LedgerUnavailable (passing); LedgerRejected (lasting)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.ledger import Ledger
from gateway.settings import required
from gateway.step import Deletion, deletion_step
from gateway.telemetry import count, metrics

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@count
@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    deleted = ledger.deleted(run.id, frozenset(run.state["remains"]["parties"]), int(time.time()))
    metrics.add_metric("AccountDeleted", MetricUnit.Count, int(deleted))
    return {"deleted": deleted}
