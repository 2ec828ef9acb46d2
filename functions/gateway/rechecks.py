"""Runs that no event of Stripe's asks for."""

import time

from gateway.events import recheck
from gateway.executions import StateMachine
from gateway.ledger import Attempt, Ledger


def look_again(
    party: str, ledger: Ledger, fulfillment: StateMachine, *, livemode: bool, asked: str, at: int | None = None
) -> Attempt:
    """Have billing look at a party now, through an order of our own. `asked` names the request that wants it, and `at`
    its moment, where it may be made twice: that is one order and one run."""
    now = int(time.time())
    order = recheck(party, party, now if at is None else at, livemode=livemode, asked=asked)
    known = ledger.record(order, now)
    attempt = known or Attempt(order.event_id, order.order_id, order.customer_id, 1, "RECEIVED", now)
    fulfillment.start(attempt)
    return attempt
