"""ResumeDeletion: the deletion of an account did not know of something bought before. It goes as well.

in      the run; ReadBilling saw parties that are still billed for a deleted account
out     {"started": number of deletions that are under way now}
raises  LedgerThrottled, LedgerUnavailable, StartThrottled, StartUnavailable (passing);
        LedgerRejected, StartRejected (lasting)
"""

import time
from typing import Any

from gateway import aws
from gateway.executions import StateMachine
from gateway.ledger import Ledger
from gateway.settings import required
from gateway.step import Run, step

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
offboarding = StateMachine(aws.client("stepfunctions"), required("OFFBOARDING_STATE_MACHINE_ARN"))


@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    started = 0
    for party in map(ledger.party, run.state["billing"]["left_over"]):
        if party.tombstone is None:
            continue
        deletion = ledger.join_late(party.tombstone, party.id)
        taken = ledger.retry_deletion(deletion, now) if deletion.over(now) else deletion
        if taken is not None:
            offboarding.start(taken)  # by its name: starts nothing when it runs already
            started += 1
    return {"started": started}
