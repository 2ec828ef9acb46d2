"""POST /read: the orders of an e-mail address that are not fulfilled; with the history, why its user is as they are.

in   {"email", "history": false, "next": from the page before, "sub": which user, where the address leads to several}
out  200 {"email", "orders": at most 100, by customer, latest first, "next": null on the last page, "deletion"}; with
     the history the fulfilled orders as well, and on the first page an explanation of how the user stands
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from gateway import aws
from gateway.access import Live, target
from gateway.billing import billing_with
from gateway.bought import Bought, access_of, bought
from gateway.endpoint import Answer, Request, endpoint, flag, text
from gateway.errors import AccountUnknown, GatewayError
from gateway.executions import console_link, execution_arn
from gateway.explanation import next_changes, summary
from gateway.ledger import Ledger, Person, Tombstone, attempt_of
from gateway.pages import page_of
from gateway.people import Account, account_of, tombstone_id
from gateway.policy import policy
from gateway.secret import Secret
from gateway.settings import one_of, required
from gateway.users import Users

POLICY = policy()
GOVERN = one_of("ADOPTED_USERS", "grant", "govern") == "govern"
MACHINE = required("STATE_MACHINE_ARN")

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
hash_key = Secret(aws.client("secretsmanager"), required("HASH_KEY_SECRET_ARN"), time.monotonic)


@endpoint(history=flag, next=text(400), sub=text(64))
def handler(request: Request) -> Answer:
    now = int(time.time())
    history, after = request.values["history"], request.values["next"]
    account = account_of(request.email, ledger, users, now, request.values["sub"])
    deletion = ledger.tombstone(tombstone_id(request.email, hash_key.text()))
    if not account.known and deletion is None:
        raise AccountUnknown("nobody has this address: no user, no customer, no order")
    page = page_of(account.parties, ledger, after, fulfilled=history)
    orders = [row for row in page.orders if history or row["state"] != "FULFILLED"]  # fulfilled meanwhile
    answer = {
        "email": request.email,
        "orders": [_order(row) for row in orders],
        "next": page.next,
        "deletion": None if deletion is None else _deletion(deletion),
    }
    if history and after is None:
        answer["explanation"] = _explanation(account, orders, now)
    return Answer(answer)


def _order(row: Mapping[str, Any]) -> dict[str, Any]:
    """An order in the field names of its contract, and how far it is."""
    attempt = attempt_of(row)
    running = attempt.state == "RECEIVED" and attempt.number > 0
    execution = execution_arn(MACHINE, attempt.execution_name) if running else row.get("execution")
    shown = {
        "id": row["order_id"],
        "customer": row.get("customer_id"),
        "amount": row.get("amount"),
        "currency": row.get("currency"),
        "charge": row.get("charge"),
        "email": row.get("email"),
        "items": row.get("items", []),
        "metadata": row.get("metadata", {}),
        "name": row.get("name"),
        "status": row["status"],
        "updated": row["updated"],
        "event": row["event_id"],
        "event_type": row["event_type"],
        "received_at": row["received_at"],
        "state": row["state"],
        "attempts": row["attempts"],
        "last_error": row.get("last_error"),
        "execution": execution,
        "console": None if execution is None else console_link(execution),
    }
    ending = ("outcome", "reason", "before", "after", "fulfilled_at")
    return shown | {name: row[name] for name in ending if name in row}


def _deletion(deletion: Tombstone) -> dict[str, Any]:
    return {
        "id": deletion.id,
        "state": deletion.state,
        "deleted_at": deletion.deleted_at,
        "attempts": deletion.attempts,
        "last_error": deletion.last_error,
    }


def _explanation(account: Account, orders: Iterable[Mapping[str, Any]], now: int) -> dict[str, Any]:
    """Why the user is as they are: what Stripe says now, what Cognito says now, what follows, who changed them last,
    and what would change them next. Stripe's being out of reach is said, and hides nothing else."""
    person = ledger.person(account.sub) if account.sub is not None else None
    held = person.held if person is not None else None
    user = replace(account.user, linked=bool(account.linked))
    explanation: dict[str, Any] = {
        "cognito": user.facts() if user.exists else None,
        "held": held,
        "live": _live(person),
        "last_change": person.last_change if person is not None else None,
    }
    try:
        found = [bought(ledger.party(each), billing, now) for each in sorted(account.linked or account.unlinked)]
    except GatewayError as error:
        return explanation | {"stripe": {"error": f"{type(error).__name__}: {error}"}}
    access = access_of(found, now, POLICY, person.granted if person is not None else None)
    wanted = target(access, person.before if person is not None and not GOVERN else None)
    unfinished = [row for row in orders if row["state"] != "FULFILLED"]
    return explanation | {
        "summary": summary(access, user, wanted, held, person.live if person is not None else Live()),
        "rule": access.reason,
        "stripe": {**asdict(access), "customers": [_customer(each) for each in found]},
        "target": asdict(wanted),
        "next": next_changes(access, user, unfinished, held),
    }


def _live(person: Person | None) -> dict[str, Any]:
    """What the authorizer says of the user: `refused` is why it lets them not in, null when it does."""
    if person is None:
        return {"refused": "unknown", "dapp_limit": 0, "used": 0}
    return {"refused": person.barred, "dapp_limit": person.live.dapp_limit, "used": person.used}


def _customer(found: Bought) -> dict[str, Any]:
    """What Stripe says of a customer or guest now."""
    return {
        "id": found.party.id,
        "email": found.email,
        "account_deleted_at": found.party.deleted_at,
        "subscriptions": [asdict(each) for each in found.subscriptions],
        "purchases": [asdict(each) for each in found.purchases],
        "marks": [asdict(each) for each in found.marks],
    }
