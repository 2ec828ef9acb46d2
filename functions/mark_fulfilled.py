"""MarkFulfilled: nothing is missing, so a change of access is told to others, and this order is done, and so is every
order recorded before of the same people.

in      the run
out     {"outcome": why nothing is missing, "closed": number of orders}
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable, NoticeThrottled,
        NoticeUnavailable (passing); NoticeRejected (lasting)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import access, aws
from gateway.ledger import CLOCK_SKEW, Ledger, Person
from gateway.notices import Notices
from gateway.settings import one_of, optional, required
from gateway.step import Run, shape, step
from gateway.telemetry import metrics
from gateway.telling import Teller
from gateway.users import Users

WITH_EMAIL = one_of("EMAIL_IN_EVENTS", "false", "true") == "true"
TOPIC = optional("PAYMENT_STATUS_TOPIC_ARN")
PAYING = {"held": "HeldPaying", "comped": "CompedPaying"}  # whoever pays for what billing may not give them

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
notices = Notices(
    aws.client("events"), required("EVENT_BUS_NAME"), aws.client("sns") if TOPIC is not None else None, TOPIC
)


@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    person = ledger.person(run.sub) if run.user.linked else None
    banned = person is not None and person.held is not None
    outcome = access.outcome(run.access, run.user, erased=run.erased, banned=banned)
    if person is not None and person.deleted_at is None:
        _settle(run, person)
        if person.telling is not None or person.told != shape(run.seen):
            _tell(run, outcome, now)
    ending: dict[str, Any] = {
        "execution": run.execution,
        "outcome": outcome,
        "reason": run.access.reason,
        "erase": run.erased,
    }
    ending |= run.change_so_far
    if run.erased:
        _erase(run)
    closed = 0
    for party in run.parties:
        for event_id in ledger.open_orders(party, run.read_at - CLOCK_SKEW):
            closed += ledger.close(event_id, now, **ending)
    # Last: as long as this order is open, a run that dies here is run again and closes the rest.
    closed += ledger.close(run.event_id, now, **ending)
    metrics.add_metric("OrderFulfilled", MetricUnit.Count, closed)
    if outcome in PAYING and run.access.wanted:
        metrics.add_metric(PAYING[outcome], MetricUnit.Count, 1)
    return {"outcome": outcome, "closed": closed}


def _erase(run: Run) -> None:
    """What Stripe still tells of an account that was deleted is not kept."""
    for party in map(ledger.party, run.parties):
        for purchase in party.purchases:
            ledger.erase_purchase(party.id, purchase.id)
        if party.sub is None and (party.email or party.claimed_email) and not party.deleting:
            ledger.erase_party(party.id, None)  # learnt by a run that knew nothing of the deletion


def _settle(run: Run, person: Person) -> None:
    """Keep what the access consists of, and when it is to be looked at again."""
    invitation, user = person.invitation, run.user
    waiting = run.access.wanted and user.enabled and user.invited and not user.comped
    mail_at = invitation.retry_at if waiting and invitation.resent < access.MAX_INVITATIONS else None
    recheck_at = min((at for at in (run.access.recheck_at, mail_at) if at is not None), default=None)
    if (person.granted, person.recheck_at) != (run.access.units, recheck_at) or recheck_at is not None:
        ledger.settle(person.sub, read_at=run.read_at, recheck_at=recheck_at, granted=run.access.units)


def _tell(run: Run, outcome: str, now: int) -> None:
    """Publish how the user's access changed since it was published last.

    Under the lease, with the user read once more: concurrent runs of one purchase tell it once, and none tells what is
    no longer so.
    """
    reason = run.access.reason if outcome in ("enabled", "disabled") else f"{outcome}; {run.access.reason}"
    with ledger.lease(run.sub, run.owner, now):
        person, user = ledger.person(run.sub), users.get(run.sub)
        if person is None or person.deleted_at is not None or user is None:
            return
        teller = Teller(ledger, users, notices, WITH_EMAIL, TOPIC is not None)
        teller.tell(person, shape(user.facts()), now, customer=run.customer_id, reason=reason, event_id=run.event_id)
