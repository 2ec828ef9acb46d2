"""CompareShard: who of this shard differs from what they pay for?

in      a shard: {"id", "started", "dry_run", "backfill", "source": "subscriptions" or, for a backfill, "sessions", with
        "from" and "until" (Unix seconds); or "people", with "segment" and "of"}
out     {"done": whether that was all, "cursor": where the next call goes on or null, "seen": rows so far, "granted":
         subscriptions among them, or of these people, that give something, "unadopted": customers left out because the
         ledger has never heard of them}
raises  StripeThrottled, StripeUnavailable, SecretUnavailable, CognitoThrottled, CognitoUnavailable, LedgerThrottled,
        LedgerUnavailable (passing);
        BillingIncomplete, StripeKeyRejected, StripeRejected, CognitoRejected, LedgerRejected (lasting)

A page of Stripe's is compared with what the ledger says each subscription gave last. Only who differs there is looked
at more closely, and only who then still differs is kept for CheckDrift.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway import aws
from gateway.access import Subscription, bought_since, decide
from gateway.billing import billing_with
from gateway.differences import Difference, Differences
from gateway.drift import EVENTS_LAST, subscription_suspect
from gateway.errors import UnusableEvent
from gateway.events import Envelope, Order, order
from gateway.ledger import Ledger, Party, Person
from gateway.policy import policy
from gateway.searches import KEPT, Turn
from gateway.secret import Secret
from gateway.settings import one_of, required
from gateway.step import Search, search_step
from gateway.telemetry import logger
from gateway.users import ListedUsers

LIVEMODE = required("STRIPE_MODE") == "live"
POLICY = policy()

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = ListedUsers(aws.client("cognito-idp"), required("USER_POOL_ID"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
differences = Differences(ledger, billing, users, POLICY, govern=one_of("ADOPTED_USERS", "grant", "govern") == "govern")


@search_step
def handler(search: Search) -> dict[str, Any]:
    shard, before, turn = search.state, search.before("compared"), Turn()
    counted = Counter({name: before.get(name, 0) for name in ("seen", "granted", "unadopted")})
    compare = _COMPARE[shard["source"]]
    cursor = before.get("cursor")
    while True:
        suspects, cursor = compare(shard, cursor, counted)
        for party in sorted(suspects):
            _keep(shard, differences.of_party(party))
        if cursor is None or turn.over:
            return {
                "done": cursor is None,
                "cursor": cursor,
                "seen": counted["seen"],
                "granted": counted["granted"],
                "unadopted": counted["unadopted"],
            }


def _keep(shard: Mapping[str, Any], found: Difference | None) -> None:
    if found is not None:
        ledger.add_drift(shard["id"], found.subject, found.row(), shard["started"] + KEPT)


def _subscriptions(shard: Mapping[str, Any], after: str | None, counted: Counter[str]) -> tuple[set[str], str | None]:
    """A page of Stripe's subscriptions: customers of whom one gives something else than it did."""
    rows, last = billing.subscriptions_made(shard["from"], shard["until"], after)
    links, people = _linked(customer for customer, _ in rows)
    suspects = set()
    for customer, subscription in rows:
        link = links.get(customer)
        person = people.get(link.sub) if link is not None and link.sub is not None else None
        counted["seen"] += 1
        counted["granted"] += person is not None and subscription.id in person.granted
        if not _suspect(subscription, link, person):
            continue
        if link is None and not shard["backfill"] and (subscription.created or 0) < shard["started"] - EVENTS_LAST:
            counted["unadopted"] += 1
        else:
            suspects.add(customer)
    return suspects, last


def _suspect(subscription: Subscription, link: Party | None, person: Person | None) -> bool:
    if link is not None and (link.deleting or not bought_since((subscription,), link.deleted_at)):
        return False
    granted = person.granted if person is not None else {}
    own = {name: units for name, units in granted.items() if name == subscription.id}
    verdict = decide((subscription,), (), int(time.time()), POLICY, own)
    told = person.told if person is not None else None
    return subscription_suspect(verdict, subscription.id, granted, told)


def _sessions(shard: Mapping[str, Any], after: str | None, counted: Counter[str]) -> tuple[set[str], str | None]:
    """A page of Stripe's Checkout sessions: who bought something once that gives nothing yet."""
    rows, last = billing.one_time_sessions(shard["from"], shard["until"], after)
    orders = [(found, int(row["created"])) for row in rows if (found := _order(row)) is not None]
    links, people = _linked(each.party for each, _ in orders)
    counted["seen"] += len(rows)
    suspects = set()
    for each, created in orders:
        link = links.get(each.party)
        person = people.get(link.sub) if link is not None and link.sub is not None else None
        if each.purchase is None or (person is not None and each.purchase.id in person.granted):
            continue
        if link is not None and (link.deleting or created <= (link.deleted_at or 0)):
            continue
        if shard["dry_run"]:
            _keep(shard, differences.of_party(each.party, each.purchase))
        else:
            ledger.remember_purchase(each)
            suspects.add(each.party)
    return suspects, last


def _linked(parties: Iterable[str]) -> tuple[dict[str, Party], dict[str, Person]]:
    """What is known of these parties, and of the persons whom they are linked to, by sub."""
    links = ledger.links(parties)
    return links, ledger.people(link.sub for link in links.values() if link.sub is not None)


def _order(session: Mapping[str, Any]) -> Order | None:
    """What the webhook would have kept of a paid session."""
    if session.get("payment_status") not in ("paid", "no_payment_required"):
        return None
    try:
        return order(Envelope(session["id"], "checkout.session.completed", LIVEMODE, None, session))
    except UnusableEvent as error:
        logger.error("UnusableEvent: %s", error, order_id=session["id"])
        return None


def _people(
    shard: Mapping[str, Any], after: Mapping[str, str] | None, counted: Counter[str]
) -> tuple[set[str], Mapping[str, str] | None]:
    """A page of the ledger: who has bought something and whose user ScanUsers has not met. Whose customer knows nothing
    of them is kept at once; who has been replaced by a new user is nobody any more."""
    rows, last = ledger.scan_people(shard["segment"], shard["of"], after)
    buyers = [each for each in rows if each.granted and each.deleted_at is None]
    unseen = ledger.unseen((each.sub for each in buyers), shard["started"])
    links = ledger.links(party for each in buyers for party in each.parties)
    counted["seen"] += len(rows)
    suspects = set()
    for each in buyers:
        leads = {party: links[party].sub if party in links else None for party in sorted(each.parties)}
        theirs = [party for party, sub in leads.items() if sub == each.sub]
        if theirs:
            counted["granted"] += sum(name.startswith("sub_") for name in each.granted)
        if each.sub in unseen:
            suspects.update(theirs[:1])
            continue
        for party in (party for party, sub in leads.items() if sub is None):
            _keep(shard, differences.of_lost_link(party, each.sub))
    return suspects, last


_COMPARE: Mapping[str, Callable[[Mapping[str, Any], Any, Counter[str]], tuple[set[str], Any]]] = {
    "subscriptions": _subscriptions,
    "sessions": _sessions,
    "people": _people,
}
