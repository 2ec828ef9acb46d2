"""PURE. Why a user is as they are, in words for an operator."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.access import Access, Live, Target, User, live


def summary(access: Access, user: User, target: Target, held: Mapping[str, Any] | None, known: Live) -> str:
    """One sentence: how the user stands, which rule decided, and what is missing. `known`: what the authorizer lets
    them do."""
    if not user.exists:
        wanted = "a user is missing" if access.wanted else "nobody is missing"
        return f"There is no user, and {wanted}: {access.reason}."
    state = "enabled" if user.enabled else "disabled"
    if user.comped:
        return f"The user is {state} and comped (custom:payment_provider is ADMIN): billing leaves them alone."
    if user.held:
        who = f"an operator ({held['reason']})" if held is not None else "a person, in the console"
        return f"The user is disabled by {who}; billing leaves them alone, and would say: {access.reason}."
    if held is not None:
        return (
            f"The user is {state}, but held by an operator ({held['reason']}), so that the authorizer refuses them: "
            "POST /hold again finishes the ban or lifts it."
        )
    if access.wanted is None:
        return f"The user is {state}, and left as they are: {access.reason}."
    if not user.linked:
        joins = "a run will join them to this customer" if access.wanted else "nothing bought is theirs"
        return f"The user is {state}, and {joins}: {access.reason}."
    stands = (user.enabled, user.dapp_limit, user.payment_status)
    asked = (target.enabled, target.dapp_limit, target.payment_status)
    if stands == asked and known != live(user, access, target, known, banned=False):
        says = f"lets them have {known.dapp_limit} dapps" if known.active else "refuses them"
        return (
            f"The user is {state}, as it should be, but the authorizer {says} until the next run, or POST /update: "
            f"{access.reason}."
        )
    if stands == asked:
        return f"The user is {state}, as it should be: {access.reason}."
    should = "enabled" if target.enabled else "disabled"
    return (
        f"The user is {state} with limit {user.dapp_limit} ({user.payment_status or 'no status'}), and should be "
        f"{should} with limit {target.dapp_limit} ({target.payment_status}): {access.reason}. The next run, or POST "
        "/update, mends it."
    )


def next_changes(
    access: Access, user: User, open_orders: Iterable[Mapping[str, Any]], held: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """What would change the user next, soonest first; `at` in Unix seconds, None: at any time."""
    found: list[dict[str, Any]] = []
    if access.recheck_at is not None:
        found.append({"at": access.recheck_at, "what": f"the answer changes by itself: {access.reason}"})
    for row in open_orders:
        if row.get("due_at") is not None:
            found.append({"at": int(row["due_at"]), "what": f"open order {row['event_id']} is run again"})
    if user.exists and (user.held or held is not None):
        found.append({"at": None, "what": "POST /hold with hold false lifts the ban"})
    elif user.exists and user.comped:
        found.append({"at": None, "what": "another custom:payment_provider than ADMIN gives them back to billing"})
    elif not access.wanted:
        found.append({"at": None, "what": "the next payment"})
    return sorted(found, key=lambda each: (each["at"] is None, each["at"] or 0))
