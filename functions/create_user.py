"""CreateUser: creates the buyer's Cognito user, who gets Cognito's welcome mail, and links the customer to it.

in      the run; DecideAccess saw no user
out     {"before": null, "after": {...}}, or nothing changed when there is a user by now: the run looks again
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable, SecretUnavailable
        (passing);
        EmailUnusable, MailLimitReached, CognitoRejected (lasting)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import MAIL_RETRY, Invitation, Live
from gateway.errors import EmailUnusable, UserExists
from gateway.ledger import Ledger, Party
from gateway.people import as_seen, left_behind, tombstone_id, user_of
from gateway.secret import Secret
from gateway.settings import required
from gateway.step import Run, step
from gateway.telemetry import logger, metrics
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
hash_key = Secret(aws.client("secretsmanager"), required("HASH_KEY_SECRET_ARN"), time.monotonic)


@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    subject = ledger.party(run.party).subject
    with ledger.lease(subject, run.owner, now):
        party = ledger.party(run.party)
        if party.subject != subject or not as_seen(run, party, user_of(party, users)):
            return run.change_so_far
        if party.email is None:
            raise EmailUnusable(f"{party.id} has no usable e-mail address; set one in Stripe, then resend the event")
        others = left_behind(party, ledger)
        for made in (user_of(other, users) for other in others):
            if made.claimed and made.sub is not None:  # by a run of theirs that was killed
                ledger.link([party.id, *(other.id for other in others)], made.sub, replacing=party.sub)
                return run.change_so_far
        address = tombstone_id(party.email, hash_key.text())
        # The address has a lease of its own: once a deletion has held it, no run that knows nothing of the deletion
        # creates a user any more.
        with ledger.lease(address, run.owner, now):
            buried = ledger.tombstone(address) if party.sub is None else None  # a linked party has its own tombstone
            if buried is not None and buried.deleted_at > run.deleted_at:
                return run.change_so_far
            return _create(run, party, [party.id, *(other.id for other in others)], now)


def _create(run: Run, party: Party, parties: list[str], now: int) -> dict[str, Any]:
    email = str(party.email)
    ledger.claim_email(party.id, email)
    try:
        sub, mailed = users.create(
            email,
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
    # With the link, because from then on others may write to the user: the lease here is the customer's.
    if not ledger.link(parties, sub, replacing=party.sub, live=Live(True, run.target.dapp_limit)):
        return run.change_so_far
    after = {"enabled": True, "dapp_limit": run.target.dapp_limit, "payment_status": run.target.payment_status}
    ledger.record_change(sub, now, run.change(None, after))
    return run.changed(after)
