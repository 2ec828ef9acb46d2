"""The oracle: who should have which access, worked out once more from the rules, without a line of the gateway's code.

It reads the objects of the Stripe stand-in, what the test itself did to users, and who is linked to whom; the links
are judged as well. Its tables are those of the README. The moment is an argument.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

Json = dict[str, Any]

HOUR = 3600
GRACE = 72 * HOUR  # parameter GracePeriodHours, by default
TRIAL_LONG_OVER = HOUR
MAX_DAPPS = 1_000_000
PRICE_LIST = {"price_listed": "3"}  # parameter DappPrices

WORST_FIRST = ("FAILED", "LAPSED", "CANCELLED")
CHANGE = "subscription_update"  # the billing_reason of an invoice in the middle of a period
SETTLED = ("paid", "no_payment_required")  # a session's payment_status
HAS_HAD = ("active", "trialing", "past_due")


class Account(Protocol):
    """Of the stand-in: its objects by resource and id, and its events."""

    objects: dict[str, dict[str, Json]]
    events: list[Json]
    session_items: dict[str, list[Json]]


@dataclass(frozen=True)
class Verdict:
    """What one subscription or purchase says. `wanted` None: it cannot be told. `units`: any of these is right.

    `undecided`: it is alive, but not all of its units can be told.
    """

    wanted: bool | None
    status: str
    units: frozenset[int] = frozenset({0})
    undecided: bool = False


@dataclass(frozen=True)
class Expected:
    """How a person should stand; any of `limits` is right, and any higher one `or_more`."""

    wanted: bool | None
    status: str = ""
    limits: frozenset[int] = frozenset()
    or_more: bool = False


class Oracle:
    """The truth about one Stripe account at one moment."""

    def __init__(self, account: Account, now: int) -> None:
        self.account, self.now = account, now
        self.objects = account.objects

    # -------------------------------------------------------------- a person

    def of(self, parties: Iterable[str]) -> Expected:
        """Any yes is yes with the sum of the units; otherwise any no is no; otherwise nothing can be said."""
        verdicts = [verdict for party in parties for verdict in self.verdicts(party)]
        undecided = any(each.undecided or each.wanted is None for each in verdicts)
        yes = [each for each in verdicts if each.wanted]
        no = [each for each in verdicts if each.wanted is False]
        if yes:
            sums = {min(sum(some), MAX_DAPPS) for some in itertools.product(*(each.units for each in yes))}
            status = "ACTIVE" if any(each.status == "ACTIVE" for each in yes) else "LAPSED"
            return Expected(True, status, frozenset(sums), or_more=undecided)
        if no and not undecided:
            return Expected(False, _worst(each.status for each in no), frozenset({0}))
        return Expected(None)

    def verdicts(self, party: str) -> list[Verdict]:
        """What a customer, or a guest's order, says."""
        found = [*map(self.purchase, self._sessions(party)), *map(self.subscription, self._subscriptions(party))]
        told = [each for each in found if each is not None]
        if self.objects["customer"].get(party, {}).get("deleted"):
            # What gave access gives none any more; what gave none stays what it is.
            return [Verdict(False, "CANCELLED"), *(each for each in told if each.wanted is False)]
        return told

    def _sessions(self, party: str) -> list[Json]:
        sessions = self.objects["checkout.session"].values()
        one_time = [each for each in sessions if each["mode"] == "payment" and each["status"] == "complete"]
        return [each for each in one_time if party == (each["customer"] or each["id"])]

    def _subscriptions(self, party: str) -> list[Json]:
        return [each for each in self.objects["subscription"].values() if each["customer"] == party]

    # -------------------------------------------------------------- one thing that was bought

    def purchase(self, session: Json) -> Verdict | None:
        """A one-time Checkout purchase gives its units for ever, unless its charge was taken back."""
        units = [self.units(line["price"], line["quantity"]) for line in self.account.session_items[session["id"]]]
        if session["payment_status"] not in SETTLED or not any(u is not None for u in units):
            return None
        if revoked := self._revoked([session["payment_intent"]]):
            return Verdict(False, _worst(revoked))
        return Verdict(True, "ACTIVE", frozenset({sum(each or 0 for each in units)}))

    def subscription(self, subscription: Json) -> Verdict | None:
        if subscription["status"] in ("incomplete", "incomplete_expired"):
            return None
        items = self._items(subscription)
        told = [units for item in items if (units := self.units(item["price"], item.get("quantity"))) is not None]
        forgotten = subscription["status"] != "canceled" and any(self._forgotten(item["price"]) for item in items)
        if not told and not forgotten:
            return None
        units = sum(told)
        match subscription["status"]:
            case "canceled":
                reason = subscription["cancellation_details"]["reason"]
                return Verdict(False, "FAILED" if reason in ("payment_failed", "payment_disputed") else "CANCELLED")
            case "unpaid":
                return Verdict(False, "FAILED")
            case "paused":
                return Verdict(False, "LAPSED")
            case "past_due":
                verdict = self._past_due(subscription, units)
            case _:
                verdict = self._running(subscription, units)
        if verdict.wanted and forgotten:
            verdict = replace(verdict, wanted=True if told else None, undecided=True)
        revoked = self._revoked_in_its_period(subscription)
        return Verdict(False, _worst(revoked)) if revoked and verdict.wanted is not False else verdict

    def _running(self, subscription: Json, units: int) -> Verdict:
        end = subscription["cancel_at"]
        if end is not None and self.now >= end:
            return Verdict(False, "CANCELLED")
        yes = Verdict(True, "ACTIVE", frozenset({units}))
        if subscription["status"] == "trialing":
            return Verdict(False, "FAILED") if self.now >= subscription["trial_end"] + TRIAL_LONG_OVER else yes
        pause = (subscription["pause_collection"] or {}).get("behavior")
        if pause == "void":
            return yes if self.now < self._paid_until(subscription) else Verdict(False, "CANCELLED")
        if pause is None and self._written_off(subscription):
            return Verdict(False, "FAILED")
        return yes

    def _past_due(self, subscription: Json, units: int) -> Verdict:
        """Within grace: never more than what was granted last, which is any of what it was worth when a run looked."""
        since = min(
            (
                each["due_date"] or each["status_transitions"]["finalized_at"]
                for each in self._invoices(subscription)
                if each["status"] == "open" and (each["attempted"] or each["collection_method"] == "send_invoice")
            ),
            default=None,
        )
        if since is None:
            starts = [item["current_period_start"] for item in self._items(subscription)]
            return Verdict(None, "LAPSED") if self.now < max(starts) + GRACE else Verdict(False, "FAILED")
        if self.now >= since + GRACE:
            return Verdict(False, "FAILED")
        return Verdict(
            True, "LAPSED", frozenset(min(units, each) for each in {units, *self._was_worth(subscription["id"])})
        )

    def _written_off(self, subscription: Json) -> bool:
        """Its latest finalized invoice is uncollectible, or void after a failed payment.

        Not so if it was written off untried within an hour: that was a pause with mark_uncollectible. A void invoice
        for a change in the middle of a period does not count: the period is paid.
        """
        latest = [
            each
            for each in self._invoices(subscription)
            if each["status"] != "draft" and not (each["status"] == "void" and each["billing_reason"] == CHANGE)
        ][-1]
        moments = latest["status_transitions"]
        if latest["status"] == "uncollectible":
            waited = moments["marked_uncollectible_at"] - moments["finalized_at"]
            return bool(latest["attempted"] or waited > HOUR)
        return bool(latest["status"] == "void" and latest["attempted"])

    def _paid_until(self, subscription: Json) -> int:
        """The end of the newest period whose invoice will ever be paid."""
        periods = [
            self._period_end(each)
            for each in self._invoices(subscription)
            if each["billing_reason"] in ("subscription_create", "subscription_cycle")
            and each["status"] not in ("draft", "void", "uncollectible")
        ]
        return periods[-1] if periods else 0

    # -------------------------------------------------------------- marks

    def _revoked_in_its_period(self, subscription: Json) -> set[str]:
        """By what speaks against a charge that paid for a period which still runs."""
        running = [each for each in self._invoices(subscription) if self.now < self._period_end(each)]
        marks = [self._revoked(self._intents(each), change=each["billing_reason"] == CHANGE) for each in running]
        return set().union(*marks)

    def _intents(self, invoice: Json) -> list[str]:
        payments = self.objects["invoice_payment"].values()
        return [each["payment"]["payment_intent"] for each in payments if each["invoice"] == invoice["id"]]

    def _revoked(self, intents: Iterable[str | None], *, change: bool = False) -> set[str]:
        """The statuses that the marks of these payments' charges bring; none when none revokes.

        A dispute that is open or won, a part of a refund, the refund of a `change` in the middle of a period and a
        fraud warning revoke nothing.
        """
        intents = set(intents) - {None}
        charges = [each for each in self.objects["charge"].values() if each["payment_intent"] in intents]
        lost = {each["charge"] for each in self.objects["dispute"].values() if each["status"] == "lost"}
        refunded = {"CANCELLED" for each in charges if each["refunded"] and not change}
        return refunded | {"FAILED" for each in charges if each["id"] in lost}

    # -------------------------------------------------------------- details

    def _items(self, subscription: Json) -> list[Json]:
        return [
            item for item in self.objects["subscription_item"].values() if item["subscription"] == subscription["id"]
        ]

    def _invoices(self, subscription: Json) -> list[Json]:
        return [
            each
            for each in self.objects["invoice"].values()
            if each["parent"] and each["parent"]["subscription_details"]["subscription"] == subscription["id"]
        ]

    def _period_end(self, invoice: Json) -> int:
        lines = [each for each in self.objects["line_item"].values() if each["invoice"] == invoice["id"]]
        return max((each["period"]["end"] for each in lines), default=0)

    def units(self, price: str | Json, quantity: int | None) -> int | None:
        """quantity x dapps; None: the price is of another product."""
        found = self.objects["price"][price] if isinstance(price, str) else price
        product = self.objects["product"][found["product"]]
        dapps = found["metadata"].get("dapps") or PRICE_LIST.get(found["id"]) or product["metadata"].get("dapps")
        if dapps is None:
            return None
        count = quantity or 0
        if transform := found["transform_quantity"]:
            rounded = transform["divide_by"] - 1 if transform["round"] == "up" else 0
            count = (count + rounded) // transform["divide_by"]
        return count * int(dapps)

    def _forgotten(self, price: str) -> bool:
        """Whether a price is mapped to nothing although another one of its product is."""
        product = self.objects["price"][price]["product"]
        others = [each for each in self.objects["price"].values() if each["product"] == product]
        mapped = any("dapps" in each["metadata"] or each["id"] in PRICE_LIST for each in others)
        return self.units(price, 1) is None and mapped

    def _was_worth(self, subscription: str) -> Iterator[int]:
        """What a subscription was worth at each of its events."""
        for event in self.account.events:
            content = event["data"]["object"]
            if content["id"] == subscription and content["status"] in HAS_HAD:
                items = content["items"]["data"]
                yield sum(self.units(item["price"], item.get("quantity")) or 0 for item in items)

    # -------------------------------------------------------------- who may be linked to whom

    def addresses(self) -> Mapping[str, set[str]]:
        """Every e-mail that a customer, or a guest's order, has ever had, in lower case."""
        found: dict[str, set[str]] = defaultdict(set)
        for event in self.account.events:
            content = event["data"]["object"]
            email = content.get("email") or (content.get("customer_details") or {}).get("email")
            if content["object"] == "customer" and email:
                found[content["id"]].add(email.lower())
            if content["object"] == "checkout.session" and email:
                found[content["customer"] or content["id"]].add(email.lower())
        return found

    def parties(self) -> list[str]:
        """Customers and guests' orders."""
        guests = [each["id"] for each in self.objects["checkout.session"].values() if self._is_guest(each)]
        return [*self.objects["customer"], *guests]

    def _is_guest(self, session: Json) -> bool:
        return bool(session["customer"] is None and session["mode"] == "payment" and session["status"] == "complete")

    def has_ever_had(self, party: str) -> bool:
        """Whether anything that a customer bought could ever have given access."""
        for event in self.account.events:
            content = event["data"]["object"]
            if party != (content.get("customer") or content["id"]):
                continue
            if content["object"] == "subscription" and content["status"] in HAS_HAD:
                return True
            if content["object"] == "checkout.session" and content["payment_status"] in SETTLED:
                return True
        return False


def _worst(statuses: Iterable[str]) -> str:
    return min(statuses, key=WORST_FIRST.index)


# ------------------------------------------------------------------ the judgement


class User(Protocol):
    """Of a Cognito user: what an operator sees."""

    sub: str
    email: str
    enabled: bool
    limit: int | None
    payment_status: str
    disabled_by: str
    provider: str


class Deeds(Protocol):
    """What the test itself did to users (lives.Deeds)."""

    before: Mapping[str, Any]
    banned: Mapping[str, Any]
    comped: Mapping[str, Any]
    deleted: Mapping[str, tuple[Any, frozenset[str]]]


def wrongs(oracle: Oracle, users: Iterable[User], links: Mapping[str, str], deeds: Deeds) -> list[str]:
    """Every difference between how users stand and how they should, in words."""
    everybody = {user.sub: user for user in users}
    linked: dict[str, list[str]] = defaultdict(list)
    for party, sub in links.items():
        linked[sub].append(party)
    found: list[str] = []
    for sub, user in everybody.items():
        found += _wrong_user(oracle, user, linked[sub], deeds)
    addresses = oracle.addresses()
    gone = [parties for _, parties in deeds.deleted.values()]
    for party in oracle.parties():
        user = everybody.get(links.get(party, ""))
        if user is None:
            found += _wrong_without_user(oracle, party, addresses[party], everybody.values(), deeds)
        elif not any(user.email.lower() in addresses[other] for other in linked[user.sub]):
            found.append(f"{party} is linked to {user.email}, an address that none of theirs ever had")
        elif not oracle.has_ever_had(party) and not any(party in each for each in gone):
            found.append(f"{party} is linked to {user.email}, but never bought anything")
    return found


def _wrong_user(oracle: Oracle, user: User, parties: list[str], deeds: Deeds) -> list[str]:
    stands = (user.enabled, user.limit, user.payment_status, user.disabled_by)
    before = deeds.before.get(user.sub)
    expected = oracle.of(parties)
    frozen = {**deeds.comped, **deeds.banned}.get(user.sub)
    if frozen is not None:
        right = {frozen.access}
    elif before is not None and (before.provider == "ADMIN" or not before.enabled or not parties):
        right = {before.access}
    elif before is not None:
        right = _adopted(expected, before)
    elif not parties:
        return [f"{user.email} was made by the gateway and is nobody's"]
    elif expected.wanted:
        right = {(True, limit, expected.status, "") for limit in expected.limits}
    else:
        right = {(False, 0, expected.status, "billing")}
    if expected.wanted is None and frozen is None:
        return []  # left as they are
    if expected.or_more and any(stands == (each[0], stands[1], *each[2:]) and stands[1] >= each[1] for each in right):
        return []
    return [] if stands in right else [f"{user.email} of {sorted(parties)} is {stands}, and should be {sorted(right)}"]


def _adopted(expected: Expected, before: Any) -> set[tuple[bool, int | None, str, str]]:
    """Only ever granted to: never lower than before, and back to before in the end."""
    if not expected.wanted:
        return {before.access}
    status = expected.status if expected.status == "ACTIVE" or not before.payment_status else before.payment_status
    return {(True, max(limit, before.limit or 0), status, "") for limit in expected.limits}


def _wrong_without_user(
    oracle: Oracle, party: str, addresses: set[str], users: Iterable[User], deeds: Deeds
) -> list[str]:
    """A payer has a user; but for those whose address is a comped or banned user's, and guests whose user was deleted
    by hand: no event of theirs will ever come."""
    if not oracle.of([party]).wanted:
        return []
    theirs = [user for user in users if user.email.lower() in addresses]
    if any(user.provider == "ADMIN" or not user.enabled for user in theirs):
        return []
    gone = deeds.deleted.values()
    if party.startswith("cs_") and any(party in parties or user.email.lower() in addresses for user, parties in gone):
        return []
    return [f"{party} pays and has no user"]
