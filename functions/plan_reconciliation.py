"""PlanReconciliation: what is to be looked for, and where? Is this the Stripe account that the ledger knows?

in      the search; its input may say {"find": "events", "drift" or "all", "dry_run": true, "backfill": true,
        "max_disabled": people, "max_disabled_percent": percent}
out     {"id": the execution's name, "started": Unix seconds, "find_events", "find_undelivered": also what is older
         and some endpoint has not taken, "find_drift", "dry_run", "backfill", "events_from": Unix seconds,
         "max_disabled", "max_disabled_percent", "shards": what is compared beside each other}
raises  StripeThrottled, StripeUnavailable, SecretUnavailable, LedgerThrottled, LedgerUnavailable (passing);
        SearchInvalid, BillingIncomplete, StripeKeyRejected, StripeRejected, LedgerRejected (lasting)
"""

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from gateway import aws
from gateway.billing import billing_with
from gateway.bought import require_known_account
from gateway.drift import EVENTS_LAST
from gateway.errors import SearchInvalid
from gateway.ledger import Ledger
from gateway.secret import Secret
from gateway.settings import required, whole_number
from gateway.step import Search, search_step

MAX_DISABLED = whole_number("MAX_DISABLED")
MAX_DISABLED_PERCENT = whole_number("MAX_DISABLED_PERCENT")
WINDOW = whole_number("EVENTS_WINDOW_HOURS") * 3600
INPUT = {"find", "dry_run", "backfill", "max_disabled", "max_disabled_percent"}
OVERLAP = 600  # Stripe lists an event a moment after its `created`; a search before may have been too early for one
SHARDS = 40  # of Stripe's list: enough that a killed one costs little, few enough for one state's data
SEGMENTS = 8  # of the ledger

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))


@search_step
def handler(search: Search) -> dict[str, Any]:
    now = int(time.time())
    find, dry_run, backfill = _asked(search.state), _said(search.state, "dry_run"), _said(search.state, "backfill")
    require_known_account(ledger, billing)
    known_until = ledger.events_known_until()
    events_from = (now - WINDOW if known_until is None else known_until) - OVERLAP
    shard = {"id": search.id, "started": now, "dry_run": dry_run, "backfill": backfill}
    return {
        "id": search.id,
        "started": now,
        "find_events": find != "drift",
        "find_undelivered": known_until is None or find == "all",
        "find_drift": find != "events",
        "dry_run": dry_run,
        "backfill": backfill,
        "events_from": max(events_from, now - EVENTS_LAST),
        "max_disabled": _number(search.state, "max_disabled", MAX_DISABLED),
        "max_disabled_percent": _number(search.state, "max_disabled_percent", MAX_DISABLED_PERCENT),
        "shards": [{**shard, **part} for part in _parts(now, backfill=backfill)],
    }


def _parts(now: int, *, backfill: bool) -> list[dict[str, Any]]:
    """Segments of the ledger, and equal spans of time since the first subscription was made.

    The ledger comes first and the last span has no end: what is bought meanwhile may be in Stripe's list and not in the
    ledger's, never the other way round.
    """
    parts: list[dict[str, Any]] = [{"source": "people", "segment": n, "of": SEGMENTS} for n in range(SEGMENTS)]
    for source in ("subscriptions", "sessions") if backfill else ("subscriptions",):
        first = billing.first_made_at(now + 1, sessions=source == "sessions")
        if first is not None:
            ends = [*(first + (now - first) * n // SHARDS for n in range(SHARDS)), now + EVENTS_LAST]
            parts += [{"source": source, "from": since, "until": until} for since, until in pairwise(ends)]
    return parts


def _asked(state: Mapping[str, Any]) -> str:
    """What is to be found, of an input that says nothing else than it may."""
    if not state.keys() <= INPUT:
        raise SearchInvalid(f"the input may say {', '.join(sorted(INPUT))}, and nothing else")
    find = state.get("find", "all")
    if find not in ("all", "events", "drift"):
        raise SearchInvalid('find is none of "all", "events", "drift"')
    return str(find)


def _said(state: Mapping[str, Any], name: str) -> bool:
    value = state.get(name, False)
    if not isinstance(value, bool):
        raise SearchInvalid(f"{name} is neither true nor false")
    return value


def _number(state: Mapping[str, Any], name: str, default: int) -> int:
    value = state.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SearchInvalid(f"{name} is not a whole number")
    return value
