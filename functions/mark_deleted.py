"""MarkDeleted: nothing is left of the account, so its deletion is done, and its address is forgotten.

Whoever has bought again since is looked at once more: a run may have given it to the user who is gone now. RunDue
starts that run, as it does with any that has not begun.

in      the deletion; FindRemains saw nothing any more
out     {"deleted": false when more has turned up meanwhile}
raises  LedgerThrottled, LedgerUnavailable (passing); LedgerRejected (lasting)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.events import recheck
from gateway.ledger import Ledger
from gateway.settings import required
from gateway.step import Deletion, deletion_step
from gateway.telemetry import metrics

LIVEMODE = required("STRIPE_MODE") == "live"

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    now = int(time.time())
    for number, party in enumerate(run.state["remains"]["renewed"]):
        ledger.record(recheck("", party, now, livemode=LIVEMODE, asked=f"{run.id}{number}"), now)
    deleted = ledger.close_deletion(run.id, frozenset(run.state["remains"]["parties"]), now)
    metrics.add_metric("AccountDeleted", MetricUnit.Count, int(deleted))
    return {"deleted": deleted}
