"""POST /hold: an operator's ban of a user, or its end. Billing never undoes it.

in   {"email", "hold": true | false, "reason": needed for a ban, "sub": which user, where the address leads to several}
out  200 {"email", "sub", "held", "enabled", "run": the execution that tells others, or null}. A ban holds when this is
     answered. When it is lifted, the run lets the user in again if they pay; who never bought anything is enabled here
"""

import time
from collections.abc import Callable
from dataclasses import replace

from gateway import aws
from gateway.access import User, comped_live
from gateway.endpoint import Answer, Request, endpoint, said, text
from gateway.errors import AccountUnknown, DeletionUnderWay, PersonBusy, RequestInvalid
from gateway.executions import StateMachine, console_link, execution_arn
from gateway.ledger import Change, Ledger, Person
from gateway.people import account_of
from gateway.rechecks import look_again
from gateway.settings import required
from gateway.step import shape
from gateway.users import BILLING, OPERATOR, Users

LIVEMODE = required("STRIPE_MODE") == "live"
MACHINE = required("STATE_MACHINE_ARN")
TRIES, WAIT = 5, 1.0  # for a run that is writing to the person

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
fulfillment = StateMachine(aws.client("stepfunctions"), MACHINE)


@endpoint(hold=said, reason=text(500), sub=text(64))
def handler(request: Request) -> Answer:
    hold, reason = request.values["hold"], request.values["reason"]
    if hold and reason is None:
        raise RequestInvalid("reason is missing: a ban says why")
    account = account_of(request.email, ledger, users, int(time.time()), request.values["sub"], own=True)
    if account.sub is None or not account.user.exists:
        raise AccountUnknown("no user has this address")
    sub = account.sub
    enabled = _under_lease(sub, request, (lambda: _hold(sub, str(reason), request)) if hold else (lambda: _lift(sub)))
    # Billing looks at the person now, and tells others of the change; after a ban, also at what they bought under it.
    runs = [
        look_again(party, ledger, fulfillment, livemode=LIVEMODE, asked=f"{request.owner}{number}")
        for number, party in enumerate(account.looked_at)
        if party in account.linked or not hold
    ]
    execution = execution_arn(MACHINE, runs[0].execution_name) if runs else None
    return Answer(
        {
            "email": request.email,
            "sub": sub,
            "held": hold,
            "enabled": enabled,
            "run": execution,
            "console": None if execution is None else console_link(execution),
        }
    )


def _under_lease(sub: str, request: Request, write: Callable[[], bool]) -> bool:
    """A run that is writing to the person is waited for."""
    for _ in range(TRIES - 1):
        try:
            with ledger.lease(sub, request.owner, int(time.time())):
                return write()
        except PersonBusy:
            time.sleep(WAIT)
    with ledger.lease(sub, request.owner, int(time.time())):
        return write()


def _seen(sub: str) -> tuple[User, Person | None]:
    person, user = ledger.person(sub), users.get(sub)
    if user is None:
        raise AccountUnknown("the user was deleted meanwhile")
    return user, person


def _hold(sub: str, reason: str, request: Request) -> bool:
    """Whether the user is enabled afterwards."""
    user, _ = _seen(sub)
    now, before = int(time.time()), shape(user.facts())
    # First: from here on the authorizer refuses them.
    ledger.hold(sub, {"reason": reason, "requested_by": request.caller, "at": now})
    ledger.record_change(sub, now, Change(before, {**(before or {}), "enabled": False}, "held", request.caller))
    # Who disabled comes before the disabling, as everywhere: billing leaves alone what does not say billing.
    users.update(sub, disabled_by=OPERATOR)
    if user.enabled:
        users.sign_out(sub)
        users.disable(sub)
    return False


def _lift(sub: str) -> bool:
    """The same. Whom billing governs is left disabled in its name: the run that follows decides."""
    user, person = _seen(sub)
    if person is not None and person.deleted_at is not None:
        raise DeletionUnderWay("this account is being deleted; a ban cannot be lifted any more")
    governed = person is not None and bool(person.parties) and not user.comped
    if user.held and governed:
        users.update(sub, disabled_by=BILLING)
    elif user.held:
        users.enable(sub)
        users.update(sub, disabled_by="")
    elif user.disabled_by == OPERATOR:  # a ban that was not finished
        users.update(sub, disabled_by="")
    ledger.lift(sub)
    enabled = user.enabled or (user.held and not governed)
    if user.comped:
        ledger.set_live(sub, comped_live(replace(user, enabled=enabled)), int(time.time()))
    return enabled
