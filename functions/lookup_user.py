"""LookupUser: which Cognito user is this person, and how should they look?

in      the run, with billing.access
out     {"user": access.User with comped and held, "target": access.Target}; an unknown user is a fact
raises  CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing); CognitoRejected (lasting)
"""

from dataclasses import asdict
from typing import Any

from gateway import aws
from gateway.access import target
from gateway.ledger import Ledger
from gateway.people import user_of
from gateway.settings import required
from gateway.step import Run, step
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@step
def handler(run: Run) -> dict[str, Any]:
    user = user_of(ledger.party(run.party), users)
    person = ledger.person(user.sub) if user.linked and user.sub is not None else None
    return {"user": user.facts(), "target": asdict(target(run.access, person.before if person else None))}
