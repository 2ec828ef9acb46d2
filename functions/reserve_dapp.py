"""POST /dapps: reserves one of the dapps that the user pays for.

in   {"id"}, which the caller chooses: the same one again reserves nothing more
out  201 {"id", "used", "limit"}; 200 the same, when it is reserved already; 403 LimitReached with used, limit and what
     to do; 403 NoAccess when access has ended since the authorizer looked
"""

import time

from gateway import aws
from gateway.dapps import patiently, person_of, standing
from gateway.endpoint import Answer, UserRequest, user_endpoint
from gateway.errors import LedgerThrottled
from gateway.ledger import Ledger
from gateway.settings import required

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@user_endpoint
def handler(request: UserRequest) -> Answer:
    dapp = request.dapp
    return patiently(lambda: _reserve(request.sub, dapp))


def _reserve(sub: str, dapp: str) -> Answer:
    new = ledger.reserve_dapp(sub, dapp, int(time.time()))
    person = person_of(sub, ledger)
    if new:
        return Answer({"id": dapp, **standing(person)}, 201)
    if person.barred is not None:
        return Answer({"error": "NoAccess", "message": f"access has ended ({person.barred})"}, 403)
    if ledger.has_dapp(sub, dapp):
        return Answer({"id": dapp, **standing(person)})
    used, limit = person.used, person.live.dapp_limit
    if used < limit:  # one was released just now
        raise LedgerThrottled("others reserve and release all the time")
    message = (
        f"{used} dapps are reserved and {limit} paid for: release one, or pay for more, which counts within seconds"
    )
    return Answer({"error": "LimitReached", "message": message, **standing(person)}, 403)
