"""DELETE /dapps/{id}: gives a reserved dapp back.

in   the id in the path
out  200 {"id", "used", "limit"}, also when it was not reserved
"""

from gateway import aws
from gateway.dapps import patiently, person_of, standing
from gateway.endpoint import Answer, UserRequest, user_endpoint
from gateway.ledger import Ledger
from gateway.settings import required

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@user_endpoint
def handler(request: UserRequest) -> Answer:
    dapp = request.dapp_in_path
    patiently(lambda: ledger.release_dapp(request.sub, dapp))
    return Answer({"id": dapp, **standing(person_of(request.sub, ledger))})
