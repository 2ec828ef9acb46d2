"""LookupUser: which Cognito user is this person, and how should they look?

in      the run, with billing.access
out     {"user": access.User with comped and held, "target": access.Target, "live": what the authorizer lets whom do,
         "live_target": what it should, "unbanned": banned by an operator and enabled all the same, "invite": send the
         invitation again, "rename": give the user the payer's new address}; an unknown user is a fact
raises  CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing);
        CognitoRejected, LedgerRejected, EmailUnverified, DeletionUnderWay (lasting)
"""

import time
from dataclasses import asdict
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import Live, Target, User, banned_target, invitation_due, live, target
from gateway.errors import DeletionUnderWay, EmailUnverified
from gateway.events import PAYMENTS
from gateway.ledger import Ledger, Party, Person
from gateway.people import user_of
from gateway.settings import one_of, required, whole_number
from gateway.step import Run, step
from gateway.telemetry import logger, metrics
from gateway.users import Users

GOVERN = one_of("ADOPTED_USERS", "grant", "govern") == "govern"
FOLLOW = one_of("EMAIL_CHANGE", "flag", "follow") == "follow"
VALIDITY = whole_number("INVITATION_DAYS") * 86_400

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@step
def handler(run: Run) -> dict[str, Any]:
    party = ledger.party(run.party)
    user = user_of(party, users)
    known = ledger.person(user.sub) if user.sub is not None else None
    if run.access.wanted is not None and (party.deleting or (known is not None and known.deleted_at is not None)):
        raise DeletionUnderWay("the account is being deleted; what was bought since is looked at when that is done")
    person = known if user.linked else None
    paying = person is not None and bool(run.access.wanted)
    banned = person is not None and person.held is not None
    before = person.before if person is not None and not GOVERN else None
    wanted = banned_target(user) if banned else target(run.access, before)
    lives, should = _live(run, party, person, user, wanted)
    return {
        "user": user.facts(),
        "target": asdict(wanted),
        "live": lives,
        "live_target": should,
        "unbanned": banned and user.enabled and not party.deleting,
        "invite": person is not None and paying and _invite(run, user, person),
        "rename": person is not None and paying and _rename(party, user, person),
    }


def _live(
    run: Run, party: Party, person: Person | None, user: User, wanted: Target
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the authorizer lets the party's user do, and what it should. A link to a user who was deleted by hand must
    not give access any more, as long as a token of theirs lives."""
    if person is None:
        user, person = User(exists=False), ledger.person(party.sub) if party.sub is not None else None
    if person is None or person.deleted_at is not None:
        return {"sub": None, **asdict(Live())}, asdict(Live())
    should = live(user, run.access, wanted, person.live, banned=person.held is not None)
    return {"sub": person.sub, **asdict(person.live)}, asdict(should)


def _invite(run: Run, user: User, person: Person) -> bool:
    """Whether this run is to send the invitation again. Which event the run is about is read only if that decides."""
    now = int(time.time())
    if not invitation_due(user, person.invitation, now, VALIDITY, run.order_id):
        return False
    payment = run.order_id if ledger.received(run.event_id).event_type in PAYMENTS else None
    return invitation_due(user, person.invitation, now, VALIDITY, payment)


def _rename(party: Party, user: User, person: Person) -> bool:
    """Whether the user is to follow the payer's address: only one whom this payer alone made, from the address that we
    gave them (not from one that an operator gave them) to a free one."""
    follows = FOLLOW and user.ours and person.parties == {party.id}
    if not user.renamed:  # unless a run was killed before it had written down that it gave them the address
        return follows and party.email is not None and party.claimed_email not in (None, party.email)
    if _taken(party):
        logger.error("EmailConflict: the new address of %s belongs to another user", party.id)
        metrics.add_metric("EmailConflict", MetricUnit.Count, 1)
        return False
    if follows and users.email(person.sub) == party.claimed_email:
        return True
    logger.warning("EmailDiffers: %s has another address in Stripe than their user", party.id)
    metrics.add_metric("EmailDiffers", MetricUnit.Count, 1)
    return False


def _taken(party: Party) -> bool:
    try:
        return party.email is not None and users.find(party.email) is not None
    except EmailUnverified:
        return True
