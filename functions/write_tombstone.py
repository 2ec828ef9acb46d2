"""WriteTombstone: finds out what belongs to the account, and has nothing count any more that was bought before.

in      the deletion
out     {"parties": number of customers and guests, "user": whether there is one}
raises  PersonBusy, StripeThrottled, StripeUnavailable, CognitoThrottled, CognitoUnavailable, LedgerThrottled,
        LedgerUnavailable, SecretUnavailable (passing);
        AccountAmbiguous, StripeKeyRejected, StripeRejected, CognitoRejected, LedgerRejected (lasting)
"""

import time
from typing import Any

from gateway import aws
from gateway.billing import billing_with
from gateway.ledger import Ledger, Tombstone
from gateway.people import account_of
from gateway.remains import unheard_of
from gateway.secret import Secret
from gateway.settings import required
from gateway.step import Deletion, deletion_step
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    now = int(time.time())
    tombstone = ledger.deletion(run.id)
    # Whoever creates a user with this address holds this lease: those who began before the deletion are done now.
    with ledger.lease(run.id, run.owner, now):
        if not tombstone.buried:  # what a failed attempt has left standing was still given access to
            tombstone = ledger.stamp(run.id, now)
        if not tombstone.account_known:
            tombstone = _account(tombstone)
    if tombstone.sub is not None:
        with ledger.lease(tombstone.sub, run.owner, now):
            tombstone = _bury_linked(tombstone, tombstone.sub)
    for name in sorted(tombstone.parties):
        if ledger.party(name).sub is None:
            with ledger.lease(name, run.owner, now):
                _bury(name, tombstone)
    ledger.buried(run.id)
    return {"parties": len(tombstone.parties), "user": tombstone.sub is not None}


def _account(tombstone: Tombstone) -> Tombstone:
    """Keep what belongs to the account: as far as the ledger knows, and customers of whom only Stripe knows."""
    if tombstone.email is None:  # only what turned up late is to be deleted
        return tombstone
    account = account_of(tombstone.email, ledger, users, tombstone.deleted_at, tombstone.sub, own=True)
    parties = account.parties | unheard_of(account, ledger, billing)
    return ledger.join_deletion(tombstone.id, parties, account.sub)


def _bury_linked(tombstone: Tombstone, sub: str) -> Tombstone:
    """From here on nobody is linked to the user any more, and no writer believes what it has read before."""
    linked = ledger.bury_person(sub, tombstone.deleted_at)
    if not linked <= tombstone.parties:
        tombstone = ledger.join_deletion(tombstone.id, linked, sub)
    for name in sorted(tombstone.parties):
        if ledger.party(name).sub is not None:
            _bury(name, tombstone)
    return tombstone


def _bury(name: str, tombstone: Tombstone) -> None:
    """One that is linked to another user by now goes on living; only what it bought before the deletion goes."""
    ours = ledger.party(name).sub in (None, tombstone.sub)
    ledger.bury(name, tombstone.deleted_at, tombstone.id, deleting=ours)
