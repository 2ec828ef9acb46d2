"""CancelSubscriptions: nobody is billed for an account that is deleted.

in      the deletion; FindRemains saw subscriptions that are still billed
out     {"canceled": number of subscriptions}
raises  StripeThrottled, StripeUnavailable, LedgerThrottled, LedgerUnavailable, SecretUnavailable (passing);
        StripeKeyRejected, StripeRejected, BillingIncomplete, LedgerRejected (lasting)
"""

import time
from typing import Any

from gateway import aws
from gateway.billing import billing_with
from gateway.bought import customer_of, left_over
from gateway.events import is_order
from gateway.ledger import Ledger
from gateway.secret import Secret
from gateway.settings import required
from gateway.step import Deletion, deletion_step

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    tombstone = ledger.deletion(run.id)
    canceled = 0
    for name in sorted(tombstone.parties):
        if is_order(name):
            continue
        for each in left_over(customer_of(ledger.party(name), billing).subscriptions, tombstone.deleted_at):
            billing.cancel(each.id, idempotency_key=f"{run.id}-{each.id}")
            ledger.count_canceled(run.id, 1)
            canceled += 1
    return {"canceled": canceled}
