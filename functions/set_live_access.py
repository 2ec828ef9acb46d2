"""SetLiveAccess: brings what the authorizer lets a user do in line with how the user stands.

in      the run; DecideAccess saw that only this is missing, or that billing leaves the user alone
out     the user's state, unchanged
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
    now, sub = int(time.time()), run.live_sub
    with ledger.lease(sub, run.owner, now):
        party = ledger.party(run.party)
        if as_seen(run, party, user_of(party, users)):
            ledger.set_live(sub, run.live_target, now, signs_out=run.signs_out)
    return run.change_so_far
