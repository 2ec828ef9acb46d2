"""DisableUser: takes access away from a user who no longer pays, or whom an operator has banned.

in      the run; DecideAccess saw the user enabled, and access not wanted or a ban
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
from gateway.users import BILLING, OPERATOR, Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@step
def handler(run: Run) -> dict[str, Any]:
    now, sub, target = int(time.time()), run.sub, run.target
    with ledger.lease(sub, run.owner, now):
        party = ledger.party(run.party)
        if not as_seen(run, party, user_of(party, users)):
            return run.change_so_far
        if run.unbanned and not _banned(sub):  # lifted meanwhile
            return run.change_so_far
        after = {"enabled": False, "dapp_limit": target.dapp_limit, "payment_status": target.payment_status}
        # First: from here on the authorizer refuses them, whatever Cognito does.
        ledger.set_live(sub, run.live_target, now, run.change(run.seen, after), signs_out=run.signs_out)
        # Who disabled comes before the disabling: otherwise a kill in between would look like an operator's ban.
        who = OPERATOR if run.unbanned else BILLING
        users.update(sub, dapp_limit=target.dapp_limit, payment_status=target.payment_status, disabled_by=who)
        # Signed out before disabled: a disabled user is proof that the sign-out was done as well.
        users.sign_out(sub)
        users.disable(sub)
    return run.changed(after)


def _banned(sub: str) -> bool:
    person = ledger.person(sub)
    return person is not None and person.held is not None
