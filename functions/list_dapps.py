"""GET /dapps: the user's reserved dapps.

in   ?next= from the page before
out  200 {"dapps": at most 500 × {"id", "reserved_at": Unix seconds}, in the order of their ids, "used", "limit",
     "next": null on the last page}
"""

from gateway import aws
from gateway.dapps import person_of, standing
from gateway.endpoint import Answer, UserRequest, user_endpoint
from gateway.ledger import Ledger
from gateway.settings import required

PAGE = 500

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@user_endpoint
def handler(request: UserRequest) -> Answer:
    found = ledger.dapps(request.sub, after=request.next, limit=PAGE + 1)
    dapps = [{"id": dapp, "reserved_at": at} for dapp, at in found[:PAGE]]
    more = dapps[-1]["id"] if len(found) > PAGE else None
    return Answer({"dapps": dapps, **standing(person_of(request.sub, ledger)), "next": more})
