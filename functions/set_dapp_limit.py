"""SetDappLimit: writes the limit and the payment status, of the user and for the authorizer.

in      the run; DecideAccess saw a limit or status that differs
out     {"before": {...}, "after": {...}}, or nothing changed when the user is not as they were seen
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing)
"""

import time
from typing import Any

from gateway import aws
from gateway.ledger import Ledger
from gateway.people import as_seen, user_of
from gateway.settings import required
from gateway.step import Run, step
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@step
def handler(run: Run) -> dict[str, Any]:
    now, sub, target = int(time.time()), run.sub, run.target
    with ledger.lease(sub, run.owner, now):
        party = ledger.party(run.party)
        if not as_seen(run, party, user_of(party, users)):
            return run.change_so_far
        after = {
            "enabled": run.seen["enabled"],
            "dapp_limit": target.dapp_limit,
            "payment_status": target.payment_status,
        }
        # First: a lower limit holds from here on, and a higher one is paid for.
        ledger.set_live(sub, run.live_target, now, run.change(run.seen, after), signs_out=run.signs_out)
        users.update(sub, dapp_limit=target.dapp_limit, payment_status=target.payment_status)
    return run.changed(after)
