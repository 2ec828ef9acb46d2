"""ChangeEmail: gives the user the address that the payer has in Stripe now (parameter EmailChange=follow).

in      the run; LookupUser saw another address, free, on a user whom this payer alone made
out     the user's state, unchanged; nothing is done when somebody has the address by now
raises  PersonBusy, CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable (passing)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.errors import MailNotDelivered, UserExists
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
    sub = run.sub
    with ledger.lease(sub, run.owner, int(time.time())):
        party = ledger.party(run.party)
        person = ledger.person(sub)
        alone = person is not None and person.parties == {party.id}
        if party.email is None or not alone or not as_seen(run, party, user_of(party, users)):
            return run.change_so_far
        try:
            if run.user.renamed:
                users.rename(sub, party.email)
        except UserExists:
            return run.change_so_far  # the next look counts the conflict
        except MailNotDelivered as error:  # changed; only Cognito's code to verify it did not leave
            logger.error("MailFailed: %s", error)
            metrics.add_metric("MailFailed", MetricUnit.Count, 1)
        # Whoever makes the user again after a deletion by hand must not find the old address's next owner.
        ledger.claim_email(party.id, party.email)
    return run.change_so_far
