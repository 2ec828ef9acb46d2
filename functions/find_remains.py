"""FindRemains: what is left of the account, as of now?

in      the deletion
out     {"pass": looks so far, "parties": whose remains were looked for, "cancel": subscriptions are still billed,
         "user": the Cognito user is there, "personal": the ledger still names somebody, "renewed": customers who have
         bought again since}
raises  StripeThrottled, StripeUnavailable, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable,
        SecretUnavailable (passing);
        StripeKeyRejected, StripeRejected, BillingIncomplete, CognitoRejected, LedgerRejected, DidNotConverge (lasting)
"""

import time
from typing import Any

from gateway import aws
from gateway.billing import billing_with
from gateway.errors import DidNotConverge
from gateway.ledger import Ledger
from gateway.remains import remains
from gateway.secret import Secret
from gateway.settings import required
from gateway.step import Deletion, deletion_step
from gateway.users import Users

MAX_PASSES = 10

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    if run.passes >= MAX_PASSES:
        raise DidNotConverge(f"{MAX_PASSES} looks and still something of the account is left: who else writes to it?")
    tombstone = ledger.deletion(run.id)
    found = remains(
        tombstone.parties, tombstone.sub, tombstone.deleted_at, ledger, users, billing, now=int(time.time())
    )
    return {
        "pass": run.passes + 1,
        "parties": sorted(tombstone.parties),
        "cancel": bool(found.subscriptions),
        "user": found.user,
        "personal": found.personal,
        "renewed": found.renewed,
    }
