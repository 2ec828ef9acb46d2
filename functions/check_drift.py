"""CheckDrift: how many differ, and may so many lose access?

in      the search, with plan, scan and shards
out     {"done": whether all are counted, "cursor": who was counted last or null, "mend": whether anybody is to be
         mended, "found": how many differ, "disabled": how many would lose access, "kinds": how many of each kind
         (drift.KINDS), "subscriptions": compared, "unadopted": customers left out}
raises  LedgerThrottled, LedgerUnavailable (passing);
        TooManyDisabled, BillingIncomplete, LedgerRejected (lasting)
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.drift import KINDS
from gateway.errors import BillingIncomplete, TooManyDisabled
from gateway.ledger import Ledger
from gateway.searches import METRICS, Turn
from gateway.settings import required
from gateway.step import Search, search_step
from gateway.telemetry import metrics

FEW = 10  # so many may lose access whatever percentage that is
TOLERATED = 3  # subscriptions that the ledger knows and Stripe's list lacks, or one in a hundred: they come and go

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@search_step
def handler(search: Search) -> dict[str, Any]:
    plan = search.plan
    listed, known, seen, unadopted = _compared(search.state["shards"])
    if known and (not listed or known - listed > max(TOLERATED, known // 100)):
        raise BillingIncomplete(
            f"Stripe lists {listed} of {known} subscriptions that the ledger knows: key of another account? "
            "(It leaves out those on test clocks.)"
        )
    before, turn = search.before("drift"), Turn()
    kinds: Counter[str] = Counter({**dict.fromkeys(KINDS, 0), **before.get("kinds", {})})
    disabled, cursor, done = before.get("disabled", 0), before.get("cursor"), True
    for row in ledger.drifts(search.id, cursor):
        kinds[row["kind"]] += 1
        disabled += row["disables"]
        cursor, done = row["sk"], not turn.over
        if not done:
            break
    if done:
        for kind, metric in METRICS.items():  # also what was not found: an alarm wants a number
            metrics.add_metric(metric, MetricUnit.Count, kinds[kind])
        metrics.add_metric("WouldDisable", MetricUnit.Count, disabled)
        if not plan["dry_run"]:
            _cap(disabled, search.state["scan"]["enabled"], plan)
    return {
        "done": done,
        "cursor": None if done else cursor,
        "mend": kinds.total() > 0 and not plan["dry_run"],
        "found": kinds.total(),
        "disabled": disabled,
        "kinds": dict(kinds),
        "subscriptions": seen,
        "unadopted": unadopted,
    }


def _compared(shards: Iterable[Mapping[str, Any]]) -> tuple[int, int, int, int]:
    """Subscriptions that give something, as Stripe's list has them and as the ledger's people have them; how many
    subscriptions there are, and how many customers were left out."""
    listed = known = seen = unadopted = 0
    for shard in shards:
        compared = shard["compared"]
        unadopted += compared["unadopted"]
        if shard["source"] == "people":
            known += compared["granted"]
        elif shard["source"] == "subscriptions":
            listed += compared["granted"]
            seen += compared["seen"]
    return listed, known, seen, unadopted


def _cap(disabled: int, enabled: int, plan: Mapping[str, Any]) -> None:
    """TooManyDisabled before the first is touched."""
    most, percent = plan["max_disabled"], plan["max_disabled_percent"]
    if disabled > most or (disabled > FEW and disabled * 100 > percent * enabled):
        metrics.add_metric("TooManyDisabled", MetricUnit.Count, 1)
        raise TooManyDisabled(
            f"{disabled} of {enabled} people would lose access, more than {most} or {percent} %; nobody was touched. "
            f"See whom in the ledger (DRIFT#{plan['id']}). If it is right, start this again with a higher max_disabled "
            "and max_disabled_percent in its input"
        )
