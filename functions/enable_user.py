"""EnableUser: gives access back to a user whom billing disabled.

in      the run; DecideAccess saw access wanted and disabled_by billing
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
        after = {"enabled": True, "dapp_limit": target.dapp_limit, "payment_status": target.payment_status}
        ledger.record_change(sub, now, run.change(run.seen, after))
        users.update(sub, dapp_limit=target.dapp_limit, payment_status=target.payment_status)
        users.enable(sub)
        # As long as it says billing, the next look comes back here.
        users.update(sub, disabled_by="")
        # Last: whom the authorizer lets in, Cognito lets in as well.
        ledger.set_live(sub, run.live_target, now)
    return run.changed(after)
