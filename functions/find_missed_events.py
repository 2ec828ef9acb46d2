"""FindMissedEvents: Stripe's events that the ledger has never heard of get the run that they missed.

in      the search, with plan
out     {"done": whether that was all, "cursor": {"list": which list, "after": last event} or null, "listed": events,
         "missed": orders that the ledger did not have, "mapping_changed": a price gives another number of dapps}
raises  StripeThrottled, StripeUnavailable, SecretUnavailable, LedgerThrottled, LedgerUnavailable, StartThrottled,
        StartUnavailable (passing);
        BillingIncomplete, StripeKeyRejected, StripeRejected, LedgerRejected, StartRejected (lasting)

Two kinds of lists: all events since the last search, and, where the plan says so, from before that what some webhook
endpoint has not taken, for as long as Stripe keeps events.
"""

import time
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws, events
from gateway.billing import billing_with
from gateway.drift import EVENTS_LAST, WRITES
from gateway.errors import UnreadableEnvelope, UnusableEvent
from gateway.executions import StateMachine
from gateway.ledger import Attempt, Ledger
from gateway.searches import SETTLED, Pace, Turn
from gateway.secret import Secret
from gateway.settings import required, whole_number
from gateway.step import Search, search_step
from gateway.telemetry import logger, metrics

LIVEMODE = required("STRIPE_MODE") == "live"
PER_SECOND = whole_number("REPAIRS_PER_SECOND")

_AT_ONCE = 20  # types in one request
_TYPES = sorted(events.SOUGHT_TYPES)
_PARTS = [_TYPES[start : start + _AT_ONCE] for start in range(0, len(_TYPES), _AT_ONCE)]

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
fulfillment = StateMachine(aws.client("stepfunctions"), required("STATE_MACHINE_ARN"))


@search_step
def handler(search: Search) -> dict[str, Any]:
    before, plan, turn, pace = search.before("events"), search.plan, Turn(), Pace(PER_SECOND)
    listed, missed = before.get("listed", 0), before.get("missed", 0)
    changed = before.get("mapping_changed", False)
    cursor = before.get("cursor") or {"list": 0, "after": None}
    lists = [(False, types) for types in _PARTS]
    if plan["find_undelivered"]:
        lists += [(True, types) for types in _PARTS]
    while True:
        undelivered, types = lists[cursor["list"]]
        span = (plan["events_from"], plan["started"] - SETTLED)
        if undelivered:
            span = (plan["started"] - EVENTS_LAST, plan["events_from"])
        rows, after = billing.events(types, *span, cursor["after"], undelivered=undelivered)
        found = [envelope for row in rows if (envelope := _envelope(row)) is not None]
        if not undelivered:  # of what is older, a search has known before
            changed = changed or any(_changes_limits(each) for each in found)
        known = {row["event_id"] for row in ledger.rows([each.id for each in found])}
        listed += len(rows)
        for each in found:
            if each.id not in known and _missed(each, pace, dry_run=plan["dry_run"]):
                missed += 1
        cursor = {"list": cursor["list"] + (after is None), "after": after}
        done = cursor["list"] == len(lists)
        if done or turn.over:
            return {
                "done": done,
                "cursor": None if done else cursor,
                "listed": listed,
                "missed": missed,
                "mapping_changed": changed,
            }


def _changes_limits(event: events.Envelope) -> bool:
    """Whether somebody may have another number of dapps since; nobody has bought yet what is new."""
    return events.notice(event) == "MappingChanged" and not event.type.endswith(".created")


def _envelope(row: Mapping[str, Any]) -> events.Envelope | None:
    """An event that is ours to look at."""
    try:
        envelope = events.envelope(row)
    except UnreadableEnvelope as error:
        logger.error("UnreadableEnvelope: %s", error)
        return None
    return envelope if envelope.account is None and envelope.livemode is LIVEMODE else None


def _missed(envelope: events.Envelope, pace: Pace, *, dry_run: bool) -> bool:
    """Do what the webhook would have done; whether the event is one that it would have recorded."""
    try:
        order = events.order(envelope)
    except UnusableEvent as error:
        metrics.add_metric("UnusableEvent", MetricUnit.Count, 1)
        logger.error("UnusableEvent: %s", error, event_id=envelope.id)
        if not dry_run:
            ledger.record(events.unusable(envelope), int(time.time()), problem=f"UnusableEvent: {error}")
        return True
    if order is None:
        return False
    metrics.add_metric("MissedEvent", MetricUnit.Count, 1)
    logger.warning("missed", event_id=order.event_id, order_id=order.order_id)
    if dry_run:
        return True
    pace.take(max(WRITES.values()))  # what it will cause nobody knows yet
    ledger.remember_purchase(order)
    now = int(time.time())  # after the purchase is known: no run that read before may close this order
    if ledger.record(order, now) is None:  # else the webhook has it by now
        fulfillment.start(Attempt(order.event_id, order.order_id, order.customer_id, 1, "RECEIVED", now))
    return True
