"""CheckAccount, at every deployment, before anything is registered in Stripe: is the key of the ledger's account?

in   a custom resource's request; its properties are there to have it asked again when they change
out  what gateway/custom_resource.py says; FAILED when Stripe knows none of the ledger's customers with this key
"""

import time

from gateway import aws
from gateway.account import account_with
from gateway.bought import UNKNOWN_ACCOUNT, require_known_account
from gateway.custom_resource import Request, checked, custom_resource
from gateway.errors import BillingIncomplete, SetupWrong
from gateway.ledger import Ledger
from gateway.secret import Secret
from gateway.settings import required

account = account_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@custom_resource
def handler(request: Request) -> None:
    checked(request, "account", _check)


def _check(_: Request) -> None:
    try:
        require_known_account(ledger, account)
    except BillingIncomplete:
        raise SetupWrong(UNKNOWN_ACCOUNT) from None
