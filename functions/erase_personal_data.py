"""ErasePersonalData: the ledger forgets whom the account's orders, customers and user were about.

in      the deletion; FindRemains saw that the ledger still names somebody
out     {"orders": number of orders that named somebody}
raises  LedgerThrottled, LedgerUnavailable (passing); LedgerRejected (lasting)
"""

from typing import Any

from gateway import aws
from gateway.ledger import Ledger
from gateway.pages import personal_orders
from gateway.settings import required
from gateway.step import Deletion, deletion_step

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    tombstone = ledger.deletion(run.id)
    erased = 0
    for party in map(ledger.party, sorted(tombstone.parties)):
        for event_id in personal_orders(party, ledger, tombstone.deleted_at):
            ledger.erase_order(event_id)
            erased += 1
        if party.deleting:
            for purchase in party.purchases:
                ledger.erase_purchase(party.id, purchase.id)
            if not ledger.erase_party(party.id, tombstone.sub):  # last: it says that this is done
                ledger.spare_party(party.id)
    if tombstone.sub is not None:
        while dapps := ledger.dapps(tombstone.sub, after=None, limit=100):
            for dapp, _ in dapps:
                ledger.erase_dapp(tombstone.sub, dapp)
        ledger.erase_person(tombstone.sub, tombstone.deleted_at)
    return {"orders": erased}
