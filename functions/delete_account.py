"""POST /delete: destroys all that belongs to an e-mail address (statemachine/offboarding.asl.json).

in   {"email", "dry_run": false, "sub": which user, where the address leads to several}
out  200 everything is gone; 202 it goes on, "console" shows where; 502 it failed, "message" says why, and the same
     request takes it up again; 200 {"dry_run": true, …} lists what would go, and changes nothing
"""

import time
from typing import Any

from gateway import aws
from gateway.billing import billing_with
from gateway.endpoint import Answer, Request, endpoint, flag, text
from gateway.errors import AccountUnknown
from gateway.executions import StateMachine, console_link, execution_arn
from gateway.ledger import Ledger, Tombstone
from gateway.people import account_of, tombstone_id
from gateway.remains import remains, unheard_of
from gateway.secret import Secret
from gateway.settings import required, whole_number
from gateway.users import Users

LOG_DAYS = whole_number("LOG_RETENTION_DAYS")
MACHINE = required("OFFBOARDING_STATE_MACHINE_ARN")
SPARE_SECONDS = 4  # for the answer, before the Lambda's own time-out
LOOK_EVERY = 0.5  # seconds

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
hash_key = Secret(aws.client("secretsmanager"), required("HASH_KEY_SECRET_ARN"), time.monotonic)
offboarding = StateMachine(aws.client("stepfunctions"), MACHINE)


@endpoint(dry_run=flag, sub=text(64))
def handler(request: Request) -> Answer:
    now = int(time.time())
    if request.values["dry_run"]:
        return _dry_run(request, now)
    tombstone = tombstone_id(request.email, hash_key.text())
    seen = ledger.tombstone(tombstone)
    if seen is not None and seen.state != "DONE":  # one that was begun before comes to its end first
        seen = _run(tombstone, seen, request, now)
        if seen.state != "DONE":
            return _answer(request.email, seen)
    account = account_of(request.email, ledger, users, now, request.values["sub"], own=True)
    if account.known or unheard_of(account, ledger, billing):
        seen = _run(tombstone, seen, request, now)
    elif seen is None:
        raise AccountUnknown("nobody has this address: no user, no customer, no order")
    return _answer(request.email, seen)


def _run(tombstone: str, seen: Tombstone | None, request: Request, now: int) -> Tombstone:
    """Begin a deletion, or take one up again that has failed; how far it is when the answer is due."""
    if seen is None or seen.over(now):
        sub = request.values["sub"]
        taken = ledger.begin_deletion(tombstone, seen, now, email=request.email, sub=sub, requested_by=request.caller)
    else:
        taken = seen
    if taken is not None:  # otherwise somebody else has just started it
        offboarding.start(taken)  # by its name: starts nothing when it runs already
    return _ended(tombstone, request)


def _ended(tombstone: str, request: Request) -> Tombstone:
    """The deletion when it has ended, or when there is no more time to wait for that."""
    while True:
        found = ledger.deletion(tombstone)
        if found.state != "RUNNING" or request.seconds_left() < SPARE_SECONDS:
            return found
        time.sleep(LOOK_EVERY)


def _answer(email: str, deletion: Tombstone) -> Answer:
    execution = execution_arn(MACHINE, deletion.execution_name)
    document: dict[str, Any] = {
        "email": email,
        "deletion": deletion.id,
        "state": deletion.state,
        "deleted_at": deletion.deleted_at,
        "subscriptions_canceled": deletion.canceled,
        "execution": execution,
        "console": console_link(execution),
    }
    if deletion.state == "DONE":
        return Answer(document | {"outlives": _outlives(deletion.deleted_at)})
    if deletion.state == "RUNNING":
        return Answer(document | {"message": "it goes on; ask again, or see the console"}, 202)
    message = f"not everything is deleted ({deletion.last_error}); the same request takes it up again"
    return Answer(document | {"error": "NotDeleted", "message": message}, 502)


def _dry_run(request: Request, now: int) -> Answer:
    account = account_of(request.email, ledger, users, now, request.values["sub"], own=True)
    parties = account.parties | unheard_of(account, ledger, billing)
    if account.sub is None and not parties:
        raise AccountUnknown("nobody has this address: no user, no customer, no order")
    found = remains(parties, account.sub, None, ledger, users, billing, now)
    return Answer(
        {
            "email": request.email,
            "dry_run": True,
            "user": account.sub if found.user else None,
            "customers": sorted(parties),
            "subscriptions": found.subscriptions,
            "subscriptions_of_other_products": found.others,
            "orders": found.orders,
            "outlives": _outlives(now),
        }
    )


def _outlives(deleted_at: int) -> list[dict[str, Any]]:
    """What a deletion does not reach; `until` in Unix seconds, None: nobody here knows."""
    day = 86_400
    return [
        {"what": "the ledger's point-in-time backups", "until": deleted_at + 35 * day},
        {"what": "logs, which name nobody but by id", "until": deleted_at + LOG_DAYS * day},
        {"what": "Step Functions' execution history, which names nobody but by id", "until": deleted_at + 90 * day},
        {"what": "tokens already issued, until they expire, where the authorizer is not asked", "until": None},
        {"what": "Stripe's own records of the customer, invoices and charges", "until": None},
    ]
