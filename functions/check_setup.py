"""CheckSetup, at every deployment, before anything else: can the gateway work with this key, these prices, this pool?

in   a custom resource's request {StripeMode, …}; every other property is there to have it asked again when it changes
out  what gateway/custom_resource.py says; FAILED lists all that is wrong, and the deployment ends there
"""

import hashlib
import json
import time
from collections.abc import Mapping

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws, checkup
from gateway.account import account_with
from gateway.custom_resource import Request, custom_resource
from gateway.errors import SetupWrong
from gateway.secret import Secret
from gateway.settings import one_of, optional, required, whole_number
from gateway.telemetry import count, metrics
from gateway.users import Pool

MODE = one_of("STRIPE_MODE", "test", "live")
MANAGES = one_of("MANAGE_WEBHOOK_ENDPOINT", "true", "false") == "true"
MAX_DAPPS = whole_number("MAX_DAPPS")
POOL_ID = optional("USER_POOL_ID")  # of your own; one that this stack makes is as it must be
CLIENTS = (optional("USER_POOL_CLIENT_IDS") or "").replace(",", " ").split()

key = Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic)
pool = Pool(aws.client("cognito-idp"), POOL_ID) if POOL_ID else None


@count
@custom_resource
def handler(request: Request) -> None:
    if request.kind == "Delete":
        return
    # CloudFormation takes a failed update back by an Update with the properties of before, or by a Delete of the id it
    # was answered. Neither may fail, and Stripe may be the reason: so the id says with which properties all was right,
    # and is another one at every request.
    right = f"setup-{_digest(request.properties)}"
    if request.resource.startswith(right):
        return
    request.resource = f"setup-{request.id}"
    before = request.before.get("StripeMode", MODE)
    if before != MODE:
        raise SetupWrong(f"StripeMode was {before}, and a ledger is of one mode: deploy a second stack for {MODE} mode")
    account = account_with(key)  # here, so that DappPrices that cannot be read are a reason, too
    problems = checkup.of_stripe(key, account, MODE, writes_endpoints=MANAGES) or checkup.of_prices(account)
    if pool is not None:
        problems += checkup.of_pool(pool, max_dapps=MAX_DAPPS, our_clients=CLIENTS)
    if problems:
        raise SetupWrong("; ".join(problems))
    request.resource = f"{right}-{request.id}"
    if request.kind == "Create":
        # The doctor looks hours later; until then DoctorSilentAlarm need not ring. An update says nothing: the doctor
        # looks at more, and what it found last still holds.
        metrics.add_metric("SetupWrong", MetricUnit.Count, 0)


def _digest(properties: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(properties, sort_keys=True).encode()).hexdigest()[:16]
