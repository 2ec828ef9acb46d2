"""PURE. What access a person should have, from what Stripe says now. The only place that holds these rules.

Nothing is imported here that could know the time or the world: the clock and the policy are arguments.
All moments are Unix seconds, as in Stripe's objects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

Status = Literal["ACTIVE", "LAPSED", "FAILED", "CANCELLED"]

_Bought = TypeVar("_Bought", "Subscription", "Purchase")

# What the operator wants done about something that Stripe tells: nothing, an alarm, or access taken away.
Reaction = Literal["ignore", "flag", "revoke"]

MarkKind = Literal["refunded", "disputed", "dispute_lost", "fraud_warning", "customer_deleted"]

# A trial that Stripe still calls "trialing" this long after its end means that we missed an event, not that
# Stripe is late.
TRIAL_END_SLACK = 3600

# A live subscription that cannot be told is looked at again after this long, although Stripe sends nothing.
LOOK_AGAIN = 3600

# An invitation that did not leave is sent again after this long; any is sent again at most this often.
MAIL_RETRY = 3600
MAX_INVITATIONS = 3

# How the alarm begins that says that more was paid for than the attribute can say; it is counted apart from the others.
CLAMPED = "limit clamped"

# Reported when nothing gives access: the one that needs attention most comes first.
_WORST_FIRST: tuple[Status, ...] = ("FAILED", "LAPSED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided (template parameters)."""

    grace: int  # seconds
    max_dapps: int
    written_off: Reaction = "revoke"
    paused_collection: Reaction = "ignore"
    refunded: Reaction = "revoke"
    disputed: Reaction = "flag"
    dispute_lost: Reaction = "revoke"
    fraud_warning: Reaction = "flag"
    customer_deleted: Reaction = "revoke"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a subscription or purchase.

    `dapps` is the mapping as text, from price, product or DappPrices: units per quantity. None: the price is not
    named, so it belongs to another product of the account and gives nothing; unless it is `stray`: its product is
    mapped by another price, so that the mapping was forgotten.
    """

    price: str
    quantity: int | None  # of a metered price: the quantity that its metadata declares
    dapps: str | None
    divide_by: int = 1  # transform_quantity
    round_up: bool = False
    stray: bool = False

    @property
    def counts(self) -> bool:
        """Whether it says anything about access."""
        return self.dapps is not None or self.stray


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
    period_end: int | None = None
    first_unpaid: int | None = None  # when the earliest open, attempted invoice was due
    pause: str = ""  # pause_collection.behavior
    period_unpaid: bool = False  # paused, and nobody paid for the current period
    written_off: bool = False  # the latest finalized invoice is uncollectible, or void after a failed payment
    settled: bool = False  # the latest finalized invoice is paid
    created: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it says anything about access."""
        return any(item.counts for item in self.items)

    @property
    def ended(self) -> bool:
        """Whether nobody can be billed for it any more."""
        return self.status in ("canceled", "incomplete_expired")


@dataclass(frozen=True, slots=True)
class Purchase:
    """A one-time order: paid adds its units until canceled or returned. `created`: when it was paid, where that is
    known."""

    id: str
    status: str
    items: tuple[Item, ...]
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that speaks against what a charge paid for: `of` is a subscription or a purchase.

    `until` is the end of the period that the charge paid for; what comes after it is paid by another charge. A deleted
    customer is a mark on everything of theirs, under the customer's `id`.
    """

    id: str
    kind: MarkKind
    of: str
    until: int | None = None


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
    `claimed`: not linked yet, but made for this payer by a run that was killed. `invited`: never signed in, so the
    temporary password of the invitation is the only one. `renamed`: Stripe has another address of the payer.
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
    created_at: int = 0
    invited: bool = False
    renamed: bool = False

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
class Invitation:
    """What is known of a user's invitations besides that of their creation.

    `sent_at` is 0 until one was sent again, `resent` says how often, `paid_by` the order that the last one answered.
    `retry_at`: the last one did not leave.
    """

    sent_at: int = 0
    resent: int = 0
    paid_by: str = ""
    retry_at: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """How the user should look; a `dapp_limit` of -1 is no limit attribute."""

    enabled: bool
    dapp_limit: int
    payment_status: str


@dataclass(frozen=True, slots=True)
class Live:
    """What the authorizer lets a user do, from one call to the next."""

    active: bool = False
    dapp_limit: int = 0


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
    alarms: tuple[str, ...] = ()


def decide(
    subscriptions: Iterable[Subscription],
    purchases: Iterable[Purchase],
    now: int,
    policy: Policy,
    granted: Mapping[str, int] | None = None,
    marks: Iterable[Mark] = (),
) -> Access:
    """The access of one person: any yes is yes with the sum of the units; otherwise any no is no; otherwise None.

    `granted` is what each subscription gave last (Access.units): one in grace keeps that and is never raised. While
    something alive cannot be told, nothing is lowered or taken away.
    """
    known = granted or {}
    in_force = [mark for mark in marks if mark.until is None or now < mark.until]
    verdicts = [
        _marked(verdict, in_force, policy)
        for verdict in (
            *(_of_subscription(each, now, policy, known) for each in subscriptions),
            *(_of_purchase(each) for each in purchases),
        )
        if verdict is not None
    ]
    # Stripe ends the subscriptions of a customer who is deleted, and need not show them any more.
    deleted = {mark.id for mark in in_force if mark.kind == "customer_deleted"}
    verdicts += [_Verdict(each, False, "CANCELLED", f"{each} deleted") for each in sorted(deleted)]
    alarms = {alarm for each in verdicts for alarm in each.alarms}
    if not verdicts and known:
        alarms.add("what was granted is mapped to no dapps any more")
    yes = [each for each in verdicts if each.wanted]
    no = [each for each in verdicts if each.wanted is False]
    undecided = any(each.undecided for each in verdicts)
    recheck_at = min((each.until for each in verdicts if each.until is not None), default=None)
    if yes:
        units = {each.id: each.units for each in yes}
        total = sum(each.units for each in yes)
        if undecided:
            units = _kept(units, verdicts, known)
            total = sum(units.values())
        if total > policy.max_dapps:
            alarms.add(f"{CLAMPED} from {total} to {policy.max_dapps}")
            total = policy.max_dapps
        status: Status = "ACTIVE" if any(each.status == "ACTIVE" for each in yes) else "LAPSED"
        reason = "; ".join(each.reason for each in yes)
        return Access(True, status, total, reason, recheck_at, units, tuple(sorted(alarms)))
    if no and not undecided:
        worst = min(no, key=lambda each: _WORST_FIRST.index(each.status))
        return Access(False, worst.status, 0, worst.reason, recheck_at, alarms=tuple(sorted(alarms)))
    reason = "; ".join(each.reason for each in verdicts if each.wanted is None) or "nothing bought"
    return Access(None, "LAPSED", 0, reason, recheck_at, known, tuple(sorted(alarms)))


def bought_since(bought: Iterable[_Bought], deleted_at: int | None) -> tuple[_Bought, ...]:
    """What still counts of a customer whose account was deleted at that moment (None: never): what came after it."""
    if deleted_at is None:
        return tuple(bought)
    return tuple(each for each in bought if each.created is not None and each.created > deleted_at)


def _kept(units: Mapping[str, int], verdicts: Iterable[_Verdict], known: Mapping[str, int]) -> dict[str, int]:
    """The units while something alive cannot be told: that keeps what it gave, and nobody has less than before."""
    alive = {each.id: max(each.units, known.get(each.id, 0)) for each in verdicts if each.undecided}
    kept = {**units, **{name: given for name, given in alive.items() if given}}
    return kept if sum(kept.values()) >= sum(known.values()) else dict(known)


def _of_subscription(
    subscription: Subscription, now: int, policy: Policy, granted: Mapping[str, int]
) -> _Verdict | None:
    if subscription.status in ("incomplete", "incomplete_expired"):
        return None
    mapped = [item for item in subscription.items if item.counts]
    if not mapped and not granted.get(subscription.id):
        return None
    verdict = _by_status(subscription, mapped, now, policy, granted)
    # Without a mapping it gives nothing; but one that gave something and has ended says no.
    return verdict if mapped or verdict.wanted is False else None


def _by_status(
    subscription: Subscription, mapped: list[Item], now: int, policy: Policy, granted: Mapping[str, int]
) -> _Verdict:
    name, label = subscription.id, f"{subscription.id} {subscription.status}"
    match subscription.status:
        case "active" | "trialing":
            return _running(subscription, mapped, label, now, policy)
        case "past_due":
            return _past_due(subscription, mapped, label, now, policy, granted)
        case "unpaid":
            stuck = f"{label}, although its last finalized invoice is paid: a newer draft must be finalized"
            return _Verdict(name, False, "FAILED", label, alarms=(stuck,) if subscription.settled else ())
        case "paused":
            return _Verdict(name, False, "LAPSED", label)
        case "canceled":
            return _Verdict(name, False, "FAILED" if subscription.ended_for_nonpayment else "CANCELLED", label)
        case _:
            unknown = f"{name} has an unknown status"
            return _Verdict(name, None, "LAPSED", unknown, undecided=True, alarms=(unknown,))


def _running(subscription: Subscription, mapped: list[Item], label: str, now: int, policy: Policy) -> _Verdict:
    name, until = subscription.id, subscription.ends_at
    alarms: tuple[str, ...] = ()
    if until is not None and now >= until:
        return _Verdict(name, False, "CANCELLED", f"{label}, ended")
    if subscription.status == "trialing":
        if subscription.trial_end is not None:
            end = subscription.trial_end
            if now >= end + TRIAL_END_SLACK:
                return _Verdict(name, False, "FAILED", f"{label}, but the trial is over", until=until)
            until = _earlier(until, end if now < end else end + TRIAL_END_SLACK)
    elif subscription.pause:
        paused = f"{label}, collection paused ({subscription.pause})"
        if subscription.pause == "void" or policy.paused_collection == "revoke":
            if subscription.period_unpaid or (subscription.period_end is not None and now >= subscription.period_end):
                return _Verdict(name, False, "CANCELLED", paused)
            until = _earlier(until, subscription.period_end)
        elif policy.paused_collection == "flag":
            alarms = (paused,)
    elif subscription.written_off:
        lost = f"{label}, but its last invoice is written off"
        if policy.written_off == "revoke":
            return _Verdict(name, False, "FAILED", lost, until=until)
        if policy.written_off == "flag":
            alarms = (lost,)
    return _with_units(_Verdict(name, True, "ACTIVE", label, until=until, alarms=alarms), mapped)


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _past_due(
    subscription: Subscription,
    mapped: list[Item],
    label: str,
    now: int,
    policy: Policy,
    granted: Mapping[str, int],
) -> _Verdict:
    name, since = subscription.id, subscription.first_unpaid
    if since is None:
        since = subscription.period_start
        if since is None or now < since + policy.grace:
            # Paid between our two reads, or not tried yet: nothing may be taken away for that.
            unclear = f"{label}, but no invoice is open"
            return _Verdict(name, None, "LAPSED", unclear, until=now + LOOK_AGAIN, undecided=True, alarms=(unclear,))
    end = since + policy.grace
    if now >= end:
        return _Verdict(name, False, "FAILED", f"{label}, grace is over")
    verdict = _with_units(_Verdict(name, True, "LAPSED", f"{label}, in grace", until=end), mapped)
    return replace(verdict, units=min(verdict.units, granted.get(name, verdict.units)))


def _of_purchase(purchase: Purchase) -> _Verdict | None:
    mapped = [item for item in purchase.items if item.counts]
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


def _marked(verdict: _Verdict, marks: Iterable[Mark], policy: Policy) -> _Verdict:
    """The verdict in the light of the marks on what it is about. A no stays what it is."""
    if verdict.wanted is False:
        return verdict
    alarms, until = list(verdict.alarms), verdict.until
    revoked: dict[Status, str] = {}
    for mark in marks:
        reaction: Reaction = getattr(policy, mark.kind)
        reason = f"{verdict.reason}, but {mark.kind.replace('_', ' ')} ({mark.id})"
        if mark.of != verdict.id or reaction == "ignore":
            continue
        if reaction == "flag":
            alarms.append(reason)
            continue
        revoked["CANCELLED" if mark.kind in ("refunded", "customer_deleted") else "FAILED"] = reason
        until = _earlier(until, mark.until)
    if not revoked:
        return replace(verdict, alarms=tuple(alarms))
    worst = min(revoked, key=_WORST_FIRST.index)
    return _Verdict(verdict.id, False, worst, revoked[worst], until=until, alarms=tuple(alarms))


def _with_units(verdict: _Verdict, mapped: list[Item]) -> _Verdict:
    """What the items give. If some cannot be told, the others count; if none can, the answer is None."""
    told = [units for item in mapped if (units := units_of(item)) is not None]
    if len(told) == len(mapped):
        return replace(verdict, units=sum(told))
    strange = next(item for item in mapped if units_of(item) is None)
    alarm = f"price {strange.price} " + (
        "is not mapped, but its product is" if strange.dapps is None else "has no readable units"
    )
    if told:
        return replace(verdict, units=sum(told), undecided=True, alarms=(*verdict.alarms, alarm))
    return _Verdict(
        verdict.id, None, "LAPSED", alarm, until=verdict.until, undecided=True, alarms=(*verdict.alarms, alarm)
    )


def units_of(item: Item) -> int | None:
    """quantity x dapps after transform_quantity; None when either cannot be read as a whole number >= 0."""
    dapps = whole_text(item.dapps)
    if dapps is None or item.quantity is None or item.quantity < 0 or item.divide_by < 1:
        return None
    packages = item.quantity // item.divide_by
    if item.round_up and item.quantity % item.divide_by:
        packages += 1
    return packages * dapps


def whole_text(text: str | None) -> int | None:
    """A whole number >= 0 of at most nine digits, as an operator writes it into metadata."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 9 else None


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


def banned_target(user: User) -> Target:
    """How a user whom an operator has banned should look: disabled, and otherwise as they are."""
    return Target(False, user.dapp_limit, user.payment_status)


def live(user: User, access: Access, target: Target, known: Live, *, banned: bool) -> Live:
    """What the authorizer is to let the user do: what is paid for; of a comped one what they have; where billing leaves
    them as they are, what was `known`. `banned`: by an operator, whatever Cognito says.

    An adopted user whose grant has ended stays enabled in Cognito, but nothing gives them access here any more.
    """
    if banned or not user.exists or user.held:
        return Live()
    if user.comped:
        return comped_live(user)
    if access.wanted is None:
        return known if user.enabled else Live()
    return Live(True, target.dapp_limit) if access.wanted else Live()


def comped_live(user: User) -> Live:
    """What the authorizer is to let a comped user do: what an operator gave them in Cognito."""
    return Live(True, max(user.dapp_limit, 0)) if user.enabled else Live()


def invitation_due(user: User, invitation: Invitation, now: int, validity: int, payment: str | None) -> bool:
    """Whether the invitation is to be sent again: it did not leave, or it expired unused and there is a new `payment`
    (an order's id). `validity` is the life of a temporary password in seconds."""
    if not (user.enabled and user.invited) or invitation.resent >= MAX_INVITATIONS:
        return False
    if invitation.retry_at is not None:
        return now >= invitation.retry_at
    expired = now >= (invitation.sent_at or user.created_at) + validity
    return expired and payment is not None and payment != invitation.paid_by


def outcome(access: Access, user: User, *, erased: bool = False, banned: bool = False) -> str:
    """Why a run found nothing missing, in one word that operators search for."""
    if erased:
        return "deleted"
    if user.comped:
        return "comped"
    if user.held or banned:
        return "held"
    if access.wanted is None:
        return "left_alone"
    if not user.linked:
        return "no_user"
    return "enabled" if user.enabled else "disabled"
