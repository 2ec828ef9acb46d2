"""ReadBilling: what does Stripe say now about this person, and which access follows from it?

in      the run
out     {"pass": looks so far, "read_at": Unix seconds before the first read, "parties": whose billing was read,
         "access": access.Access}
raises  StripeThrottled, StripeUnavailable, LedgerThrottled, LedgerUnavailable (passing);
        StripeKeyRejected, StripeRejected, BillingIncomplete, SecretUnavailable, DidNotConverge (lasting)
"""

import time
from dataclasses import asdict, replace
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import Access, Mark, Policy, Purchase, Reaction, Subscription, decide
from gateway.billing import Billing, price_map
from gateway.errors import BillingIncomplete, DidNotConverge, UnusableEvent
from gateway.events import email_address, is_order, mark
from gateway.ledger import Ledger, Party
from gateway.secret import Secret
from gateway.settings import one_of, required, whole_number
from gateway.step import Run, step
from gateway.telemetry import count, logger, metrics

MAX_PASSES = 10
REACTIONS: tuple[Reaction, ...] = ("ignore", "flag", "revoke")
POLICY = Policy(
    grace=whole_number("GRACE_PERIOD_HOURS") * 3600,
    max_dapps=whole_number("MAX_DAPPS"),
    written_off=one_of("WRITTEN_OFF", *REACTIONS),
    paused_collection=one_of("PAUSED_COLLECTION", *REACTIONS),
    refunded=one_of("REFUNDED", *REACTIONS),
    disputed=one_of("DISPUTED", *REACTIONS),
    dispute_lost=one_of("DISPUTE_LOST", *REACTIONS),
    fraud_warning=one_of("FRAUD_WARNING", *REACTIONS),
    customer_deleted=one_of("CUSTOMER_DELETED", *REACTIONS),
)

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
    payer = _payer(run)
    if payer is None:
        return _answer(run, read_at, [run.party], decide((), (), read_at, POLICY))
    party = ledger.party(payer)
    person = ledger.person(party.sub) if party.sub is not None else None
    others = sorted(person.parties - {party.id}) if person is not None else []
    subscriptions: list[Subscription] = []
    purchases: list[Purchase] = []
    marks: list[Mark] = []
    for each in (party, *map(ledger.party, others)):
        found, deleted = _subscriptions(each)
        bought = [billing.purchase(known) for known in each.purchases]
        if deleted:
            concerned = [each.id, *(one.id for one in found), *(one.id for one in bought)]
            marks += (Mark(each.id, "customer_deleted", of) for of in concerned)
        marks += _marks(each, read_at)
        subscriptions += found
        purchases += bought
    access = decide(subscriptions, purchases, read_at, POLICY, person.granted if person is not None else None, marks)
    for alarm in access.alarms:
        logger.error("AccessAlarm: %s", alarm)
        metrics.add_metric("AccessAlarm", MetricUnit.Count, 1)
    ignored = sum(not item.counts for each in subscriptions for item in each.items)
    if ignored:
        metrics.add_metric("IgnoredItem", MetricUnit.Count, ignored)
    return _answer(run, read_at, [party.id, *others], access)


def _answer(run: Run, read_at: int, parties: list[str], access: Access) -> dict[str, Any]:
    return {"pass": run.passes + 1, "read_at": read_at, "parties": parties, "access": asdict(access)}


def _payer(run: Run) -> str | None:
    """Whose billing is to be read; None: nobody's, the charge was paid outside Checkout and without a customer.

    A refund, dispute or fraud warning names only a charge: Stripe knows who paid it.

    What the charge paid for is kept with the payer before the order is theirs, so that no run of theirs that does not
    know of it closes the order.
    """
    if not run.payer_unknown:
        return run.party
    order = ledger.received(run.event_id)
    told = mark(order.event_type, run.order_id, order.charge or "")
    charged = billing.charged(told.charge)
    guest = charged.pays if charged.pays is not None and is_order(charged.pays) else None
    payer = charged.customer or guest
    if payer is None:
        return None
    pays = charged.pays if charged.whole or told.kind != "refund" else None
    ledger.remember_mark(payer, replace(told, pays=pays, until=charged.until))
    ledger.assign(run.event_id, payer, int(time.time()))  # after the mark is known, not when this run began to read
    return payer


def _marks(party: Party, now: int) -> list[Mark]:
    """What speaks against the party's charges as of now, where the period that they paid for still runs."""
    running = [known for known in party.marks if known.until is None or now < known.until]
    return [found for known in running if (found := billing.mark(known)) is not None]


def _subscriptions(party: Party) -> tuple[tuple[Subscription, ...], bool]:
    """The customer's subscriptions as of now, and whether Stripe has deleted the customer; what was learnt about the
    customer is kept."""
    if is_order(party.id):
        return (), False
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
    return customer.subscriptions, customer.deleted
