"""DeleteUser: signs the user out everywhere, tells others that they are going, and deletes them.

in      the deletion; FindRemains saw the Cognito user
out     {"deleted": whether there was a user}
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable, NoticeThrottled,
        NoticeUnavailable (passing); CognitoRejected, LedgerRejected, NoticeRejected (lasting)
"""

import time
from typing import Any

from gateway import aws
from gateway.errors import UserMissing
from gateway.ledger import Ledger
from gateway.notices import Notices
from gateway.settings import one_of, optional, required
from gateway.step import Deletion, deletion_step
from gateway.telling import Teller
from gateway.users import Users

WITH_EMAIL = one_of("EMAIL_IN_EVENTS", "false", "true") == "true"
TOPIC = optional("PAYMENT_STATUS_TOPIC_ARN")

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
notices = Notices(
    aws.client("events"), required("EVENT_BUS_NAME"), aws.client("sns") if TOPIC is not None else None, TOPIC
)


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    now = int(time.time())
    tombstone = ledger.deletion(run.id)
    sub = tombstone.sub
    if sub is None:
        return {"deleted": False}
    with ledger.lease(sub, run.owner, now):
        try:
            users.sign_out(sub)
            users.disable(sub)  # whatever fails from here on, nobody uses what they do not pay for
            person = ledger.person(sub)
            if person is not None:
                # Told before it is done: afterwards nobody would come back to it after a kill.
                teller = Teller(ledger, users, notices, WITH_EMAIL, TOPIC is not None)
                teller.tell(person, None, now, customer=None, reason="the account was deleted", event_id=None)
        except UserMissing:  # deleted by hand meanwhile
            return {"deleted": False}
        users.delete(sub)
    return {"deleted": True}
