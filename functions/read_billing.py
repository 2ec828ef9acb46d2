"""ReadBilling: what does Stripe say now about this person, and which access follows from it?

in      the run
out     {"pass": looks so far, "read_at": Unix seconds before the first read, "parties": whose billing was read,
         "access": access.Access}
raises  StripeThrottled, StripeUnavailable, LedgerThrottled, LedgerUnavailable (passing);
        StripeKeyRejected, StripeRejected, BillingIncomplete, SecretUnavailable, DidNotConverge (lasting)
"""

import time
from dataclasses import asdict
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import Policy, Purchase, Subscription, decide
from gateway.billing import Billing, price_map
from gateway.errors import BillingIncomplete, DidNotConverge, UnusableEvent
from gateway.events import email_address, is_order
from gateway.ledger import Ledger, Party
from gateway.secret import Secret
from gateway.settings import required, whole_number
from gateway.step import Run, step
from gateway.telemetry import count, logger, metrics

MAX_PASSES = 10
POLICY = Policy(grace=whole_number("GRACE_PERIOD_HOURS") * 3600, max_dapps=whole_number("MAX_DAPPS"))

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
billing = Billing(
    Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET_ARN"), time.monotonic),
    base=required("STRIPE_API_BASE"),
    livemode=required("STRIPE_MODE") == "live",
    prices=price_map(required("DAPP_PRICES")),
)


@count
@step
def handler(run: Run) -> dict[str, Any]:
    if run.passes >= MAX_PASSES:
        raise DidNotConverge(f"{MAX_PASSES} looks and still something is missing: who else writes to this user?")
    read_at = int(time.time())
    party = ledger.party(run.party)
    person = ledger.person(party.sub) if party.sub is not None else None
    others = sorted(person.parties - {party.id}) if person is not None else []
    subscriptions: list[Subscription] = []
    purchases: list[Purchase] = []
    for each in (party, *map(ledger.party, others)):
        subscriptions += _subscriptions(each)
        purchases += (billing.purchase(known) for known in each.purchases)
    access = decide(subscriptions, purchases, read_at, POLICY, person.granted if person is not None else None)
    for alarm in access.alarms:
        logger.error("AccessAlarm: %s", alarm)
        metrics.add_metric("AccessAlarm", MetricUnit.Count, 1)
    return {"pass": run.passes + 1, "read_at": read_at, "parties": [party.id, *others], "access": asdict(access)}


def _subscriptions(party: Party) -> tuple[Subscription, ...]:
    """The customer's subscriptions as of now; what was learnt about the customer is kept."""
    if is_order(party.id):
        return ()
    customer = billing.customer(party.id)
    subscribed = party.subscribed or bool(customer.subscriptions)
    if subscribed and not customer.subscriptions and not customer.deleted:
        raise BillingIncomplete(f"Stripe shows no subscription of {party.id}, which had one: key of another account?")
    try:
        email = email_address(customer.email)
    except UnusableEvent:
        email = None
    if (email, subscribed) != (party.email, party.subscribed):
        ledger.note_party(party.id, email=email, subscribed=subscribed)
    return customer.subscriptions
