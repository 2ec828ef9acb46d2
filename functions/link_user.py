"""LinkUser: joins a paying customer to the user that already has their e-mail. Joining only ever adds.

in      the run; DecideAccess saw a user that this customer is not linked to
out     the user's state, unchanged: the limit follows at the next look, over all linked customers
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing)
"""

import time
from typing import Any

from gateway import aws
from gateway.access import MAIL_RETRY, Invitation
from gateway.ledger import Ledger
from gateway.people import as_seen, left_behind, user_of
from gateway.settings import required
from gateway.step import Run, shape, step
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    subject = ledger.party(run.party).subject
    with ledger.lease(subject, run.owner, now):
        party = ledger.party(run.party)
        user = user_of(party, users)
        if party.subject != subject or not as_seen(run, party, user) or user.sub is None:
            return run.change_so_far
        parties = [party.id, *(other.id for other in left_behind(party, ledger))]
        if user.claimed and user.invited and ledger.person(user.sub) is None:
            # Made by a run that was killed: whether the mail left is known to nobody. A second one does no harm.
            ledger.invited(user.sub, Invitation(retry_at=now + MAIL_RETRY))
        ledger.link(parties, user.sub, replacing=party.sub, before=None if user.ours else shape(user.facts()))
    return run.changed(shape(run.seen))
