"""ResendInvitation: Cognito sends a new temporary password to a user who never signed in.

in      the run; LookupUser saw that the last invitation did not leave, or expired and was paid for again
out     the user's state, unchanged; a mail that does not leave is counted and tried again in an hour
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing)
"""

import time
from dataclasses import replace
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import MAIL_RETRY, Invitation
from gateway.errors import CognitoUnavailable, GatewayError, MailLimitReached, MailNotDelivered
from gateway.ledger import Ledger
from gateway.people import as_seen, user_of
from gateway.settings import required
from gateway.step import Run, step
from gateway.telemetry import logger, metrics
from gateway.users import Users

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
users = Users(aws.client("cognito-idp"), required("USER_POOL_ID"))


@step
def handler(run: Run) -> dict[str, Any]:
    now, sub = int(time.time()), run.sub
    with ledger.lease(sub, run.owner, now):
        person, party = ledger.person(sub), ledger.party(run.party)
        if person is None or not as_seen(run, party, user_of(party, users)):
            return run.change_so_far
        if person.invitation.sent_at >= run.read_at:
            return run.change_so_far  # another run has sent it meanwhile
        # Written first, as one that did not leave: a kill costs a second mail, never the only one.
        attempt = Invitation(now, person.invitation.resent + 1, run.order_id, retry_at=now + MAIL_RETRY)
        ledger.invited(sub, attempt)
        try:
            users.invite_again(sub)
        except (MailNotDelivered, MailLimitReached) as error:
            logger.error("MailFailed: %s", error)
            metrics.add_metric("MailFailed", MetricUnit.Count, 1)
            if isinstance(error, MailLimitReached):  # tomorrow's quota will do: it does not count
                ledger.invited(sub, replace(attempt, resent=person.invitation.resent))
        except CognitoUnavailable:
            raise  # it may have left
        except GatewayError:
            ledger.invited(sub, person.invitation)
            raise
        else:
            ledger.invited(sub, replace(attempt, retry_at=None))
    return run.change_so_far
