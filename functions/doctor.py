"""Doctor, every few hours and whenever somebody invokes it: can the gateway work as it is set up now?

in      anything (not read)
out     {"healthy": whether nothing is wrong, "wrong": [what, and what to do], "advice": [what will not do for long]};
        the metric SetupWrong counts what is wrong, 0 when nothing is, and nothing when it could not look
raises  StripeThrottled, StripeUnavailable, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable
        (passing)
"""

import time
from collections.abc import Callable
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws, checkup, signature
from gateway.account import account_with
from gateway.bought import UNKNOWN_ACCOUNT, require_known_account
from gateway.defects import harmless
from gateway.errors import BillingIncomplete, CognitoRejected, LedgerRejected, SecretUnavailable, StripeRejected
from gateway.ledger import Ledger
from gateway.secret import Secret
from gateway.settings import one_of, optional, required, whole_number
from gateway.telemetry import count, logger, metrics
from gateway.users import Pool

MODE = one_of("STRIPE_MODE", "test", "live")
MANAGES = one_of("MANAGE_WEBHOOK_ENDPOINT", "true", "false") == "true"
REFUSES_SPARE = one_of("SPARE_RIGHTS", "refuse", "advise") == "refuse"
MAX_DAPPS = whole_number("MAX_DAPPS")
CLIENTS = (optional("USER_POOL_CLIENT_IDS") or "").replace(",", " ").split()
URL = required("WEBHOOK_URL")

key = Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic)
signing = Secret(aws.client("secretsmanager"), required("STRIPE_WEBHOOK_SECRET_ARN"), time.monotonic)
account = account_with(key)
pool = Pool(aws.client("cognito-idp"), required("USER_POOL_ID"))
ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@count
@harmless
def handler(event: object, context: Any) -> dict[str, Any]:
    logger.append_keys(function=context.function_name, request_id=context.aws_request_id)
    wrong = [*_asked(_of_stripe), *_asked(_of_pool)]
    metrics.add_metric("SetupWrong", MetricUnit.Count, len(wrong))
    for each in wrong:
        logger.error("SetupWrong: %s", each)
    advice = _asked(_advice)
    if not wrong and not REFUSES_SPARE:
        advice += _asked(_of_spare_rights)
    return {"healthy": not wrong, "wrong": wrong, "advice": advice}


def _asked(look: Callable[[], list[str]]) -> list[str]:
    """What a look finds; that it cannot be had is a finding as well, unless it passes."""
    try:
        return look()
    except (CognitoRejected, LedgerRejected, StripeRejected) as error:
        return [f"{type(error).__name__}: {error}"]


def _of_pool() -> list[str]:
    return checkup.of_pool(pool, max_dapps=MAX_DAPPS, our_clients=CLIENTS)


def _advice() -> list[str]:
    return checkup.advice(pool)


def _of_spare_rights() -> list[str]:
    return checkup.of_spare_rights(account)


def _of_stripe() -> list[str]:
    problems = checkup.of_stripe(key, account, MODE, writes_endpoints=MANAGES, refuses_spare=REFUSES_SPARE)
    return problems or [*_of_account(), *checkup.of_prices(account), *_of_endpoint()]


def _of_account() -> list[str]:
    try:
        require_known_account(ledger, account)
    except BillingIncomplete:
        return [UNKNOWN_ACCOUNT]
    return []


def _of_endpoint() -> list[str]:
    try:
        secrets = signature.secrets_in(signing.latest())
    except SecretUnavailable:
        secrets = []
    return checkup.of_endpoint(account, URL, signing_secrets=len(secrets))
