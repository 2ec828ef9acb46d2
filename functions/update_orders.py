"""POST /update: runs the orders of an e-mail address that are not fulfilled, one run per person.

in   {"email", "next": from the page before, "sub": which user, where the address leads to several}
out  200 {"email", "orders": at most 100 × {"id", "event", "result": "started" | "already running" | "nothing to do",
     "why", "execution", "console"}, "next": null on the last page}; one run heals all orders of its person. Where none
     is open, billing looks all the same: a line "started" for the person, and one for each customer who is linked to
     nobody (ten at most). Who never bought anything and is comped has what Cognito says from then on
"""

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway import aws
from gateway.access import Live, comped_live
from gateway.endpoint import Answer, Request, endpoint, text
from gateway.errors import AccountUnknown
from gateway.executions import StateMachine, console_link, execution_arn
from gateway.ledger import Attempt, Ledger, Person, attempt_of
from gateway.pages import page_of
from gateway.people import account_of
from gateway.rechecks import look_again
from gateway.settings import required
from gateway.users import Users

LIVEMODE = required("STRIPE_MODE") == "live"
MACHINE = required("STATE_MACHINE_ARN")
LOOKED_AT = 10  # oldest and latest orders of a customer, for one that runs already; the index may list fulfilled ones

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
fulfillment = StateMachine(aws.client("stepfunctions"), MACHINE)


@dataclass(frozen=True, slots=True)
class Run:
    """What becomes of a person's orders."""

    result: str
    why: str
    attempt: Attempt | None = None


@endpoint(next=text(400), sub=text(64))
def handler(request: Request) -> Answer:
    now = int(time.time())
    account = account_of(request.email, ledger, users, now, request.values["sub"])
    if not account.known:
        raise AccountUnknown("nobody has this address: no user, no customer, no order")
    if account.sub is not None and not account.linked:
        _bring_in_line(account.sub, request.owner, now)
    page = page_of(account.parties, ledger, request.values["next"], fulfilled=False)
    runs: dict[frozenset[str], Run] = {}
    lines = []
    for row in page.orders:
        person = account.linked if row["party"] in account.linked else frozenset({row["party"]})
        if row["state"] == "FULFILLED":
            run = Run("nothing to do", "it was fulfilled meanwhile")
        elif not row["attempts"]:
            run = Run("nothing to do", "its content cannot be used; resend the event in Stripe once that is mended")
        else:
            run = runs[person] = runs.get(person) or _run(person, row["event_id"], now)
        lines.append(_line(row["order_id"], row["event_id"], run))
    if request.values["next"] is None:
        covered = frozenset().union(*runs)
        lines += [
            _look_again(party, f"{request.owner}{n}")
            for n, party in enumerate(account.looked_at)
            if party not in covered
        ]
    return Answer({"email": request.email, "orders": lines, "next": page.next})


def _bring_in_line(sub: str, owner: str, now: int) -> None:
    """No customer is linked to this user, so no run tells the authorizer of them: what an operator gave them (comped)
    is what they have."""
    with ledger.lease(sub, owner, now):
        user, person = users.get(sub), ledger.person(sub) or Person(sub, frozenset())
        if user is None or person.parties or person.deleted_at is not None:
            return
        allowed = comped_live(user) if user.comped and person.held is None else Live()
        if allowed != person.live:
            ledger.set_live(sub, allowed, now, signs_out=person.live.active and not allowed.active)


def _run(person: frozenset[str], asked: str, now: int) -> Run:
    """Run the person's oldest open order, unless one of theirs is running: that one heals them all. Whoever asks at the
    same time picks the same order, and only one of them gets its next attempt. `asked` is one that can be run."""
    oldest = {event for party in person for event in islice(ledger.open_orders(party, now + 60), LOOKED_AT)}
    latest = {
        rank.rpartition("#")[2]
        for party in person
        for rank in ledger.orders(party, fulfilled=False, before=None, limit=LOOKED_AT)
    }
    rows = [
        row for row in ledger.rows(sorted(oldest | latest | {asked})) if row["state"] != "FULFILLED" and row["attempts"]
    ]
    attempts = [attempt_of(row) for row in sorted(rows, key=lambda row: (row["received_at"], row["event_id"]))]
    running = next((each for each in attempts if not each.over(now)), None)
    if running is not None:
        fulfillment.start(running)  # whoever took it may have been refused; starting it twice is starting it once
        return Run("already running", "this run heals all orders of the person", running)
    if not attempts:
        return Run("nothing to do", "all were fulfilled meanwhile")
    taken = ledger.next_attempt(attempts[0], now)
    if taken is None:
        return Run("already running", "somebody else has just started it")
    fulfillment.start(taken)
    return Run("started", "this run heals all orders of the person", taken)


def _look_again(party: str, asked: str) -> dict[str, Any]:
    """Nothing is open, and whoever asks has changed something that no event tells of."""
    attempt = look_again(party, ledger, fulfillment, livemode=LIVEMODE, asked=asked)
    return _line(party, attempt.event_id, Run("started", "nothing was open; billing looks at the person", attempt))


def _line(order_id: str, event_id: str, run: Run) -> dict[str, Any]:
    execution = None if run.attempt is None else execution_arn(MACHINE, run.attempt.execution_name)
    return {
        "id": order_id,
        "event": event_id,
        "result": run.result,
        "why": run.why,
        "execution": execution,
        "console": None if execution is None else console_link(execution),
    }
