"""MarkFulfilled: nothing is missing, so a change of access is told to others, and this order is done, and so is every
order recorded before of the same people.

in      the run
out     {"outcome": why nothing is missing, "closed": number of orders}
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable, NoticeThrottled,
        NoticeUnavailable (passing); NoticeRejected (lasting)
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import access, aws
from gateway.ledger import CLOCK_SKEW, Ledger, Person
from gateway.notices import Notices
from gateway.settings import one_of, optional, required
from gateway.step import Run, shape, step
from gateway.telemetry import count, metrics
from gateway.users import Users

WITH_EMAIL = one_of("EMAIL_IN_EVENTS", "false", "true") == "true"
TOPIC = optional("PAYMENT_STATUS_TOPIC_ARN")

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))
notices = Notices(
    aws.client("events"), required("EVENT_BUS_NAME"), aws.client("sns") if TOPIC is not None else None, TOPIC
)


@count
@step
def handler(run: Run) -> dict[str, Any]:
    now = int(time.time())
    outcome = access.outcome(run.access, run.user)
    person = ledger.person(run.sub) if run.user.linked else None
    if person is not None:
        _settle(run, person)
        if person.telling is not None or person.told != shape(run.seen):
            _tell(run, outcome, now)
    ending = {"execution": run.execution, "outcome": outcome, "reason": run.access.reason, **run.change_so_far}
    closed = 0
    for party in run.parties:
        for event_id in ledger.open_orders(party, run.read_at - CLOCK_SKEW):
            closed += ledger.close(event_id, now, **ending)
    # Last: as long as this order is open, a run that dies here is run again and closes the rest.
    closed += ledger.close(run.event_id, now, **ending)
    metrics.add_metric("OrderFulfilled", MetricUnit.Count, closed)
    if outcome in ("held", "comped") and run.access.wanted:
        metrics.add_metric(f"{outcome.capitalize()}Paying", MetricUnit.Count, 1)
    return {"outcome": outcome, "closed": closed}


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
    no longer so. A notice is written down before it is published: after a kill the same one is published again, with
    its id, before any other.
    """
    with ledger.lease(run.sub, run.owner, now):
        person, user = ledger.person(run.sub), users.get(run.sub)
        after = shape(user.facts()) if user is not None else None
        if person is None or after is None:
            return
        told, tellings = person.told, person.tellings
        if person.telling is not None:
            notice = json.loads(person.telling)
            _publish(run.sub, notice, tellings + 1)
            told, tellings = notice["after"], tellings + 1
        if told == after:
            return
        reason = run.access.reason if outcome in ("enabled", "disabled") else f"{outcome}; {run.access.reason}"
        notice = {
            "id": f"{run.sub}-{tellings + 1}",
            "sub": run.sub,
            **({"email": users.email(run.sub)} if WITH_EMAIL else {}),
            "customer": run.customer_id,
            "before": told,
            "after": after,
            "reason": reason,
            "event_id": run.event_id,
            "at": now,
        }
        ledger.telling(run.sub, json.dumps(notice))
        _publish(run.sub, notice, tellings + 1)


def _publish(sub: str, notice: Mapping[str, Any], tellings: int) -> None:
    notices.publish(notice)  # first, because its repetitions can be told by their id
    if TOPIC is not None:
        notices.message(notice["after"]["payment_status"], users.email(sub))
    ledger.told(sub, notice["after"], tellings)
