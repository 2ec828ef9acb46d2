"""PURE. What access a person should have, from what Stripe says now. The only place that holds these rules.

Nothing is imported here that could know the time or the world: the clock and the policy are arguments.
All moments are Unix seconds, as in Stripe's objects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Status = Literal["ACTIVE", "LAPSED", "FAILED", "CANCELLED"]

# A trial that Stripe still calls "trialing" this long after its end means that we missed an event, not that
# Stripe is late.
TRIAL_END_SLACK = 3600

# A live subscription that cannot be told is looked at again after this long, although Stripe sends nothing.
LOOK_AGAIN = 3600

# Reported when nothing gives access: the one that needs attention most comes first.
_WORST_FIRST: tuple[Status, ...] = ("FAILED", "LAPSED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided (template parameters)."""

    grace: int  # seconds
    max_dapps: int


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a subscription or purchase.

    `dapps` is the mapping as text, from price, product or DappPrices: units per quantity. None: the price is not
    named, so it belongs to another product of the account and gives nothing.
    """

    price: str
    quantity: int | None
    dapps: str | None
    divide_by: int = 1  # transform_quantity
    round_up: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the rules need of a Stripe subscription, whatever API version it came from."""

    id: str
    status: str
    items: tuple[Item, ...]
    trial_end: int | None = None
    ends_at: int | None = None  # cancel_at, or the period's end when cancel_at_period_end
    ended_for_nonpayment: bool = False
    period_start: int | None = None
    first_unpaid: int | None = None  # when the earliest open, attempted invoice was due


@dataclass(frozen=True, slots=True)
class Purchase:
    """A one-time order: paid adds its units until canceled or returned."""

    id: str
    status: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """ReadBilling's answer. `wanted` None means: leave the user as they are.

    `recheck_at` is the moment at which the answer changes although Stripe sends nothing. `units` says what each
    subscription and purchase gives, or gave last while something alive cannot be told. `alarms` names what an operator
    should look at.
    """

    wanted: bool | None
    status: Status
    dapp_limit: int
    reason: str
    recheck_at: int | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """What the rules need of a Cognito user: flags and numbers, no personal data.

    `dapp_limit` is -1 when the attribute is not set. `linked`: the payer of this run is linked to the user.
    `claimed`: not linked yet, but made for this payer by a run that was killed.
    """

    exists: bool
    sub: str | None = None
    linked: bool = False
    claimed: bool = False
    enabled: bool = False
    disabled_by: str = ""
    provider: str = ""
    dapp_limit: int = -1
    payment_status: str = ""

    @property
    def comped(self) -> bool:
        """Given access by an operator; billing never touches them."""
        return self.provider == "ADMIN"

    @property
    def ours(self) -> bool:
        """Made by this gateway; anybody else's is only ever granted to."""
        return self.provider == "STRIPE"

    @property
    def held(self) -> bool:
        """Disabled by a person, so only a person lifts it."""
        return self.exists and not self.enabled and self.disabled_by != "billing"

    def facts(self) -> dict[str, Any]:
        """As the states pass it."""
        return {**asdict(self), "comped": self.comped, "held": self.held}


@dataclass(frozen=True, slots=True)
class Before:
    """How a user stood who existed before their first purchase ("adopted")."""

    dapp_limit: int
    payment_status: str


@dataclass(frozen=True, slots=True)
class Target:
    """How the user should look; a `dapp_limit` of -1 is no limit attribute."""

    enabled: bool
    dapp_limit: int
    payment_status: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one subscription or purchase says. `undecided`: it is alive, but what it gives cannot be told in full."""

    id: str
    wanted: bool | None
    status: Status
    reason: str
    units: int = 0
    until: int | None = None
    undecided: bool = False
    alarm: str | None = None


def decide(
    subscriptions: Iterable[Subscription],
    purchases: Iterable[Purchase],
    now: int,
    policy: Policy,
    granted: Mapping[str, int] | None = None,
) -> Access:
    """The access of one person: any yes is yes with the sum of the units; otherwise any no is no; otherwise None.

    `granted` is what each subscription gave last (Access.units): one in grace keeps that and is never raised. While
    something alive cannot be told, nothing is lowered or taken away.
    """
    known = granted or {}
    verdicts = [
        verdict
        for verdict in (
            *(_of_subscription(each, now, policy, known) for each in subscriptions),
            *(_of_purchase(each) for each in purchases),
        )
        if verdict is not None
    ]
    alarms = {each.alarm for each in verdicts if each.alarm is not None}
    if not verdicts and known:
        alarms.add("what was granted is mapped to no dapps any more")
    yes = [each for each in verdicts if each.wanted]
    no = [each for each in verdicts if each.wanted is False]
    undecided = any(each.undecided for each in verdicts)
    recheck_at = min((each.until for each in verdicts if each.until is not None), default=None)
    if yes:
        total = sum(each.units for each in yes)
        if undecided:
            total = max(total, sum(known.values()))
        if total > policy.max_dapps:
            alarms.add(f"limit clamped from {total} to {policy.max_dapps}")
            total = policy.max_dapps
        status: Status = "ACTIVE" if any(each.status == "ACTIVE" for each in yes) else "LAPSED"
        reason = "; ".join(each.reason for each in yes)
        units = {each.id: each.units for each in yes}
        if undecided:
            units = {**known, **units}
        return Access(True, status, total, reason, recheck_at, units, tuple(sorted(alarms)))
    if no and not undecided:
        worst = min(no, key=lambda each: _WORST_FIRST.index(each.status))
        return Access(False, worst.status, 0, worst.reason, alarms=tuple(sorted(alarms)))
    reason = "; ".join(each.reason for each in verdicts if each.wanted is None) or "nothing bought"
    return Access(None, "LAPSED", 0, reason, recheck_at, known, tuple(sorted(alarms)))


def _of_subscription(
    subscription: Subscription, now: int, policy: Policy, granted: Mapping[str, int]
) -> _Verdict | None:
    if subscription.status in ("incomplete", "incomplete_expired"):
        return None
    mapped = [item for item in subscription.items if item.dapps is not None]
    if not mapped:
        return None
    name, label = subscription.id, f"{subscription.id} {subscription.status}"
    match subscription.status:
        case "active" | "trialing":
            return _running(subscription, mapped, label, now)
        case "past_due":
            return _past_due(subscription, mapped, label, now, policy, granted)
        case "unpaid":
            return _Verdict(name, False, "FAILED", label)
        case "paused":
            return _Verdict(name, False, "LAPSED", label)
        case "canceled":
            return _Verdict(name, False, "FAILED" if subscription.ended_for_nonpayment else "CANCELLED", label)
        case _:
            unknown = f"{name} has an unknown status"
            return _Verdict(name, None, "LAPSED", unknown, undecided=True, alarm=unknown)


def _running(subscription: Subscription, mapped: list[Item], label: str, now: int) -> _Verdict:
    until = subscription.ends_at
    if until is not None and now >= until:
        return _Verdict(subscription.id, False, "CANCELLED", f"{label}, ended")
    if subscription.status == "trialing" and subscription.trial_end is not None:
        end = subscription.trial_end
        if now >= end + TRIAL_END_SLACK:
            return _Verdict(subscription.id, False, "FAILED", f"{label}, but the trial is over")
        next_look = end if now < end else end + TRIAL_END_SLACK
        until = next_look if until is None else min(until, next_look)
    return _with_units(_Verdict(subscription.id, True, "ACTIVE", label, until=until), mapped)


def _past_due(
    subscription: Subscription,
    mapped: list[Item],
    label: str,
    now: int,
    policy: Policy,
    granted: Mapping[str, int],
) -> _Verdict:
    name, since = subscription.id, subscription.first_unpaid
    if since is None and (subscription.period_start is None or now < subscription.period_start + policy.grace):
        # Paid between our two reads, or not tried yet: nothing may be taken away for that.
        unclear = f"{label}, but no invoice is open"
        return _Verdict(name, None, "LAPSED", unclear, until=now + LOOK_AGAIN, undecided=True, alarm=unclear)
    end = (since if since is not None else subscription.period_start or 0) + policy.grace
    if now >= end:
        return _Verdict(name, False, "FAILED", f"{label}, grace is over")
    verdict = _with_units(_Verdict(name, True, "LAPSED", f"{label}, in grace", until=end), mapped)
    return replace(verdict, units=min(verdict.units, granted.get(name, verdict.units)))


def _of_purchase(purchase: Purchase) -> _Verdict | None:
    mapped = [item for item in purchase.items if item.dapps is not None]
    if not mapped and purchase.items:
        return None
    label = f"{purchase.id} {purchase.status}"
    match purchase.status:
        case "paid" | "fulfilled":
            return _with_units(_Verdict(purchase.id, True, "ACTIVE", label), mapped) if mapped else None
        case "canceled" | "returned":
            return _Verdict(purchase.id, False, "CANCELLED", label)
        case _:
            return None


def _with_units(verdict: _Verdict, mapped: list[Item]) -> _Verdict:
    """What the items give. If some cannot be told, the others count; if none can, the answer is None."""
    told = [units for item in mapped if (units := units_of(item)) is not None]
    if len(told) == len(mapped):
        return replace(verdict, units=sum(told))
    strange = next(item.price for item in mapped if units_of(item) is None)
    alarm = f"price {strange} has no readable units"
    if told:
        return replace(verdict, units=sum(told), undecided=True, alarm=alarm)
    return replace(verdict, wanted=None, status="LAPSED", reason=alarm, undecided=True, alarm=alarm)


def units_of(item: Item) -> int | None:
    """quantity x dapps after transform_quantity; None when either cannot be read as a whole number >= 0."""
    dapps = item.dapps or ""
    if item.quantity is None or item.quantity < 0 or item.divide_by < 1:
        return None
    if not (dapps.isascii() and dapps.isdigit() and len(dapps) <= 9):
        return None
    packages = item.quantity // item.divide_by
    if item.round_up and item.quantity % item.divide_by:
        packages += 1
    return packages * int(dapps)


def target(access: Access, before: Before | None) -> Target:
    """How the user of this access should look.

    A user that existed before their first purchase is only ever granted to: never less than what they had, and put
    back to that when the grant ends. Our own are disabled.
    """
    if before is None:
        return Target(True, access.dapp_limit, access.status) if access.wanted else Target(False, 0, access.status)
    if not access.wanted:
        return Target(True, before.dapp_limit, before.payment_status)
    worse = access.status != "ACTIVE" and before.payment_status != ""
    limit = max(before.dapp_limit, access.dapp_limit)
    return Target(True, limit, before.payment_status if worse else access.status)


def outcome(access: Access, user: User) -> str:
    """Why a run found nothing missing, in one word that operators search for."""
    if user.comped:
        return "comped"
    if user.held:
        return "held"
    if access.wanted is None:
        return "left_alone"
    if not user.linked:
        return "no_user"
    return "enabled" if user.enabled else "disabled"
