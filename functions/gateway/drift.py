"""PURE. Whether somebody's access differs from what they pay for, and in which way.

A difference is what a run of the fulfillment machine would change (its state DecideAccess) in Cognito, or in what the
authorizer goes by; not what only mails or names are about.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from gateway.access import Access, Before, Live, Target, User, comped_live

Kind = Literal[
    "access_without_payment",
    "hold_lost",
    "paid_without_access",
    "user_deleted",
    "orphaned_link",
    "wrong_limit",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

# What takes access away from somebody.
DISABLING: frozenset[Kind] = frozenset(("access_without_payment", "hold_lost"))

# How many writes a run that mends it makes, at most, of the kind that Cognito allows 25 a second of.
WRITES: Mapping[Kind, int] = {
    "access_without_payment": 3,
    "hold_lost": 3,
    "paid_without_access": 3,
    "user_deleted": 1,
    "orphaned_link": 3,
    "wrong_limit": 1,
}

# Customers of whom the ledger has never heard are adopted only if somebody asks for it (backfill), unless their
# subscription is so young that Stripe still has its events (seconds; an hour less, because a list takes its time).
EVENTS_LAST = 30 * 86_400 - 3600


def kind_of(
    access: Access, user: User, target: Target, known: Live, should: Live, *, link_known: bool, banned: bool
) -> Kind | None:
    """How a user differs from what is paid for, None when nothing is missing.

    `known` is what the authorizer lets them do, `should` what it is to let them do. `link_known`: the ledger has a link
    to a user, perhaps one who is gone. `banned`: by an operator, as the ledger has it.
    """
    if banned or user.held:
        return "hold_lost" if user.enabled or known.active else None
    if access.wanted and not user.comped and not user.linked:
        if not user.exists:
            return "user_deleted" if link_known else "paid_without_access"
        return "orphaned_link" if user.ours else "paid_without_access"
    if known.active and not should.active:
        return "access_without_payment"
    if user.comped or access.wanted is None:
        return "wrong_limit" if known != should else None
    if not user.linked:  # a user whom a run that was killed made, and did not link, is to be linked and disabled
        return "access_without_payment" if user.claimed and user.enabled else None
    if user.enabled and not target.enabled:
        return "access_without_payment"
    if target.enabled and user.disabled_by == "billing":
        return "paid_without_access"
    if (user.dapp_limit, user.payment_status) != (target.dapp_limit, target.payment_status):
        keeps_more = user.enabled and not access.wanted and user.dapp_limit > target.dapp_limit
        return "access_without_payment" if keeps_more else "wrong_limit"
    if should.active and not known.active:
        return "paid_without_access"
    return "wrong_limit" if known != should else None


def user_suspect(
    user: User,
    *,
    granted: Mapping[str, int],
    before: Before | None,
    told: Mapping[str, Any] | None,
    live: Live,
    banned: bool,
) -> bool:
    """Whether a user of the pool does not look as the ledger says that the last run left them; then somebody has to ask
    Stripe. `granted`, `before`, `told` and `live` are what the ledger has of their person (ledger.Person)."""
    if banned or user.held:
        return user.enabled or live.active
    if user.comped:
        return live != comped_live(user)
    stands = {"enabled": user.enabled, "dapp_limit": user.dapp_limit, "payment_status": user.payment_status}
    if told != stands:
        return True
    if granted:
        return user.disabled_by != "" or not live.active or live.dapp_limit != user.dapp_limit
    return live.active or (user.enabled and before is None)


def subscription_suspect(
    verdict: Access, subscription: str, granted: Mapping[str, int], told: Mapping[str, Any] | None
) -> bool:
    """Whether a subscription gives something else than it gave last, or the only one that gives anything has another
    status. `verdict`: what it gives alone; `granted` and `told`: as for `user_suspect`."""
    if verdict.wanted is None:
        return False
    if not verdict.wanted:
        return subscription in granted
    if granted.get(subscription) != verdict.units.get(subscription):
        return True
    return len(granted) == 1 and told is not None and told["payment_status"] != verdict.status
