"""CreateUser: creates the buyer's Cognito user, who gets Cognito's welcome mail, and links the customer to it.

in      the run; DecideAccess saw no user
out     {"before": null, "after": {...}}, or nothing changed when there is a user by now: the run looks again
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing);
        EmailUnusable, MailLimitReached, CognitoRejected (lasting)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import MAIL_RETRY, Invitation
from gateway.errors import EmailUnusable, UserExists
from gateway.ledger import Ledger
from gateway.people import left_behind, user_of
from gateway.settings import required
from gateway.step import Run, step
from gateway.telemetry import count, logger, metrics
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@count
@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    subject = ledger.party(run.party).subject
    with ledger.lease(subject, run.owner, now):
        party = ledger.party(run.party)
        if party.subject != subject or user_of(party, users).facts() != run.seen:
            return run.change_so_far
        if party.email is None:
            raise EmailUnusable(f"{party.id} has no usable e-mail address; set one in Stripe, then resend the event")
        others = left_behind(party, ledger)
        parties = [party.id, *(other.id for other in others)]
        for made in (user_of(other, users) for other in others):
            if made.claimed and made.sub is not None:  # by a run of theirs that was killed
                ledger.link(parties, made.sub, replacing=party.sub)
                return run.change_so_far
        ledger.claim_email(party.id, party.email)
        try:
            sub, mailed = users.create(
                party.email,
                dapp_limit=run.target.dapp_limit,
                payment_status=run.target.payment_status,
                customer_id=run.customer_id,
            )
        except UserExists:
            return run.change_so_far
        if not mailed:
            logger.error("MailFailed: the user is there, but the invitation did not leave; it is sent again")
            metrics.add_metric("MailFailed", MetricUnit.Count, 1)
            ledger.invited(sub, Invitation(retry_at=now + MAIL_RETRY))
        if not ledger.link(parties, sub, replacing=party.sub):
            return run.change_so_far
        after = {"enabled": True, "dapp_limit": run.target.dapp_limit, "payment_status": run.target.payment_status}
        ledger.record_change(sub, now, run.change(None, after))
    return run.changed(after)
