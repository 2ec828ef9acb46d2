"""ReadBilling: what does Stripe say now about this person, and which access follows from it?

in      the run
out     {"pass": looks so far, "read_at": Unix seconds before the first read, "parties": whose billing was read,
         "access": access.Access, "deleted_at": when the payer's account was deleted or null, "erased": nothing was
         bought since, "left_over": parties still billed for a deleted account, "resume": whether there are any}
raises  StripeThrottled, StripeUnavailable, LedgerThrottled, LedgerUnavailable, SecretUnavailable (passing);
        StripeKeyRejected, StripeRejected, BillingIncomplete, DidNotConverge (lasting)
"""

import time
from dataclasses import asdict, replace
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.access import CLAMPED, Access, decide
from gateway.billing import billing_with
from gateway.bought import Bought, access_of, bought, left_over
from gateway.errors import DidNotConverge
from gateway.events import is_order, mark
from gateway.ledger import Ledger
from gateway.people import tombstone_id
from gateway.policy import policy
from gateway.secret import Secret
from gateway.settings import required
from gateway.step import Run, step
from gateway.telemetry import logger, metrics

MAX_PASSES = 10
POLICY = policy()

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
billing = billing_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
hash_key = Secret(aws.client("secretsmanager"), required("HASH_KEY_SECRET_ARN"), time.monotonic)


@step
def handler(run: Run) -> dict[str, Any]:
    if run.passes >= MAX_PASSES:
        raise DidNotConverge(f"{MAX_PASSES} looks and still something is missing: who else writes to this user?")
    read_at = int(time.time())
    payer = _payer(run)
    if payer is None:
        return _answer(run, read_at, [run.party], decide((), (), read_at, POLICY))
    party = ledger.party(payer)
    person = ledger.person(party.sub) if party.sub is not None else None
    others = sorted(person.parties - {party.id}) if person is not None else []
    found = [bought(each, billing, read_at) for each in (party, *map(ledger.party, others))]
    found[0], deleted_at = _buried(found[0])
    if all(each.all_before_deletion for each in found):
        access = Access(None, "LAPSED", 0, "the account was deleted, and nothing was bought since")
    else:
        for each in found:
            if not each.all_before_deletion:
                _note(each)
        access = access_of(found, read_at, POLICY, person.granted if person is not None else None)
    for alarm in access.alarms:
        metric = "LimitClamped" if alarm.startswith(CLAMPED) else "AccessAlarm"
        logger.error("%s: %s", metric, alarm)
        metrics.add_metric(metric, MetricUnit.Count, 1)
    ignored = sum(not item.counts for each in found for one in each.subscriptions for item in one.items)
    if ignored:
        metrics.add_metric("IgnoredItem", MetricUnit.Count, ignored)
    return _answer(run, read_at, [party.id, *others], access, deleted_at, found)


def _answer(
    run: Run,
    read_at: int,
    parties: list[str],
    access: Access,
    deleted_at: int | None = None,
    found: list[Bought] | None = None,
) -> dict[str, Any]:
    late = [each.party.id for each in found or () if left_over(each.subscriptions, each.party.deleted_at)]
    return {
        "pass": run.passes + 1,
        "read_at": read_at,
        "parties": parties,
        "access": asdict(access),
        "deleted_at": deleted_at,
        "erased": bool(found) and all(each.all_before_deletion for each in found or ()),
        "left_over": late,
        "resume": bool(late),
    }


def _payer(run: Run) -> str | None:
    """Whose billing is to be read; None: nobody's, the charge was paid outside Checkout and without a customer.

    A refund, dispute or fraud warning names only a charge: Stripe knows who paid it.

    What the charge paid for is kept with the payer before the order is theirs, so that no run of theirs that does not
    know of it closes the order.
    """
    if not run.payer_unknown:
        return run.party
    order = ledger.received(run.event_id)
    told = mark(order.event_type, run.order_id, order.charge or "")
    charged = billing.charged(told.charge)
    guest = charged.pays if charged.pays is not None and is_order(charged.pays) else None
    payer = charged.customer or guest
    if payer is None:
        return None
    pays = charged.pays if charged.whole or told.kind != "refund" else None
    ledger.remember_mark(payer, replace(told, pays=pays, until=charged.until))
    ledger.assign(run.event_id, payer, int(time.time()))  # after the mark is known, not when this run began to read
    return payer


def _buried(found: Bought) -> tuple[Bought, int | None]:
    """The payer in the light of a deletion of their address's account, of which the ledger did not know that they are
    part of it, and when their account was deleted.

    Whoever is linked to a user bought, or was looked at, after that deletion.
    """
    party, email = found.party, found.email or found.party.email
    if party.sub is not None or email is None:
        return found, party.deleted_at
    buried = ledger.tombstone(tombstone_id(email, hash_key.text()))
    if buried is None or buried.deleted_at <= (party.deleted_at or 0):
        return found, party.deleted_at
    concerned = replace(found, party=replace(party, deleted_at=buried.deleted_at, tombstone=buried.id))
    if concerned.since_deletion == concerned:  # all of it was bought since
        return found, buried.deleted_at
    ledger.bury(party.id, buried.deleted_at, buried.id, deleting=False)
    return concerned, buried.deleted_at


def _note(found: Bought) -> None:
    """Keep what was learnt about a customer."""
    party = found.party
    if not is_order(party.id) and (found.email, found.subscribed) != (party.email, party.subscribed):
        ledger.note_party(party.id, email=found.email, subscribed=found.subscribed, deleted_at=party.deleted_at)
