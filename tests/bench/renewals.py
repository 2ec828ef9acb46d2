"""So many customers renew at once: how long until every order is done, what it costs, and how long somebody waits who
buys in these hours.

A simulation, a twentieth of everything: events that the API admits or Stripe redelivers; runs that read Stripe once
(tests/bench/costs.py) and are tried again, with full jitter, when Stripe throttles; RunDue; a run that gets through
closes every order of its person. Nothing but the two rates limits: all others are several times as high (README).
"""

import heapq
import itertools
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Table

SCALE = 20
HOUR = 3600
RENEWING = HOUR  # within this time all are told that their period is new; when it is paid, an hour later each
BUYERS, BUYING = 250, 5 * HOUR  # so many, within this time
PURCHASE = 5  # seconds, for its five events
REDELIVERED_AFTER = (300, 1800, 2 * HOUR, *[5 * HOUR] * 14)  # assumed: Stripe only says that it tries for three days
RETRY_AFTER, LONGEST_WAIT = 300, 6 * HOUR  # of an order that was not fulfilled
DUE_EVERY, DUE_WORKS = 300, 105  # seconds between calls of RunDue, and how long it works each time
TO_START = 0.03  # seconds that it takes for one order, assumed
CLOCK_SKEW = 5
BURST = 2  # seconds of a rate that may come at once

MACHINE = Path(__file__).parents[2] / "statemachine" / "fulfillment.asl.json"


@dataclass(frozen=True)
class Setting:
    """`stripe`: reads that Stripe answers a second; `admitted`: events that the API lets in a second."""

    name: str
    customers: int = 1_000_000
    stripe: float = 25
    admitted: float = 100


SETTINGS = (
    Setting("as deployed, 200,000 customers", customers=200_000),
    Setting("as deployed, a million"),
    Setting("the same, Stripe's limit 100", stripe=100),
    Setting("the same, Stripe, Cognito and the API at 200", stripe=200, admitted=200),
)


class Bucket:
    """A token bucket, as limits of AWS and Stripe are."""

    def __init__(self, rate: float) -> None:
        self._rate = rate / SCALE
        self._size = self._tokens = max(1.0, BURST * self._rate)
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        taken = self._tokens >= 1
        self._tokens -= taken
        return taken


@dataclass
class Order:
    """An order in the ledger."""

    person: int
    happened_at: float
    recorded_at: float
    attempts: int = 1
    done_at: float | None = None


class Day:
    """What happens, in order of time."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.customers = setting.customers // SCALE
        self.orders: list[Order] = []
        self.transitions = 0
        self.most_running = 0
        self._running = 0
        self._open: dict[int, list[Order]] = defaultdict(list)
        self._api, self._stripe = Bucket(setting.admitted), Bucket(setting.stripe)
        self._dice = random.Random(1)
        self._waits = waits()
        self._numbers = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[float], object]]] = []
        self._due: list[tuple[float, int, Order]] = []

    def run(self) -> "Day":
        for person in range(self.customers + BUYERS):
            buys = person >= self.customers
            at = self._dice.uniform(0, BUYING if buys else RENEWING)
            moments = [at + self._dice.uniform(0, PURCHASE) for _ in range(5)] if buys else [at, at + HOUR]
            for moment in moments:
                self._deliver(moment, person, at)
        self._at(DUE_EVERY, self._run_due)
        while self._agenda:
            now, _, happens = heapq.heappop(self._agenda)
            happens(now)
        assert len(self.orders) == 2 * self.customers + 5 * BUYERS
        assert all(order.done_at is not None for order in self.orders)
        return self

    def _at(self, moment: float, happens: Callable[[float], object]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._numbers), happens))

    def _deliver(self, moment: float, person: int, happened_at: float, times: int = 0) -> None:
        def arrives(now: float) -> None:
            if self._api.take(now):
                order = Order(person, happened_at, now)
                self.orders.append(order)
                self._open[person].append(order)
                self._start(now, order)
            else:
                later = now + REDELIVERED_AFTER[times] * self._dice.uniform(0.75, 1.25)
                self._deliver(later, person, happened_at, times + 1)

        self._at(moment, arrives)

    def _start(self, now: float, order: Order) -> None:
        self._running += 1
        self.most_running = max(self.most_running, self._running)
        self._read(now, order, 0)

    def _read(self, now: float, order: Order, tries: int) -> None:
        """ReadBilling; what follows it takes no time here."""
        self.transitions += 1
        if self._stripe.take(now):
            self._fulfilled(now, order)
        elif tries < len(self._waits):
            wait = self._dice.uniform(0, self._waits[tries])
            self._at(now + wait, lambda then: self._read(then, order, tries + 1))
        else:
            self._unfulfilled(now, order)

    def _fulfilled(self, now: float, order: Order) -> None:
        self.transitions += 4
        self._running -= 1
        still_open = []
        for each in self._open[order.person]:
            if each is order or each.recorded_at < now - CLOCK_SKEW:
                each.done_at = now
            else:
                still_open.append(each)
        self._open[order.person] = still_open

    def _unfulfilled(self, now: float, order: Order) -> None:
        self.transitions += 2
        self._running -= 1
        if order.done_at is None:
            due_at = now + min(RETRY_AFTER * 2 ** (order.attempts - 1), LONGEST_WAIT)
            heapq.heappush(self._due, (due_at, next(self._numbers), order))

    def _run_due(self, now: float) -> None:
        taken = 0.0
        while self._due and self._due[0][0] <= now and taken < DUE_WORKS:
            _, _, order = heapq.heappop(self._due)
            if order.done_at is None:
                order.attempts += 1
                self._at(now + taken, lambda then, order=order: self._start(then, order))
                taken += TO_START * SCALE * self._dice.uniform(0.5, 1.5)
        if self._agenda or self._due:
            self._at(now + DUE_EVERY, self._run_due)


def waits() -> list[float]:
    """The longest waits between ReadBilling's tries when Stripe throttles."""
    states = json.loads(MACHINE.read_text(encoding="utf-8"))["States"]
    (retry,) = [each for each in states["ReadBilling"]["Retry"] if "StripeThrottled" in each["ErrorEquals"]]
    assert retry["JitterStrategy"] == "FULL"
    growing = (retry["IntervalSeconds"] * retry["BackoffRate"] ** tried for tried in range(retry["MaxAttempts"]))
    return [min(wait, retry["MaxDelaySeconds"]) for wait in growing]


def bench() -> Table:
    columns = (
        "setting",
        "half renewed",
        "99 %",
        "all",
        "transitions an event",
        "runs at once",
        "buyers served in 5 minutes",
        "longest wait of a buyer",
    )
    note = (
        f"Simulated (`tests/bench/renewals.py`), a twentieth of everything: customers with two events each, told within"
        f" {RENEWING // HOUR} h that the period is new and an hour later that it is paid; {BUYERS * SCALE:,} buyers,"
        f" with five events each, within {BUYING // HOUR} h. Nothing is lost in any of them."
    )
    return Table("Everybody renews at once", columns, [row(Day(setting).run()) for setting in SETTINGS], note)


def row(day: Day) -> tuple[str, ...]:
    renewed = sorted(order.done_at or 0 for order in day.orders if order.person < day.customers)
    served: dict[int, float] = defaultdict(lambda: math.inf)
    for order in day.orders:
        if order.person >= day.customers:
            served[order.person] = min(served[order.person], (order.done_at or 0) - order.happened_at)
    return (
        day.setting.name,
        *(f"{renewed[math.ceil(part * len(renewed)) - 1] / HOUR:.1f} h" for part in (0.5, 0.99, 1)),
        f"{day.transitions / len(day.orders):.1f}",
        f"{day.most_running * SCALE:,}",
        f"{sum(wait <= 300 for wait in served.values()) / BUYERS:.0%}",
        f"{max(served.values()) / HOUR:.1f} h",
    )
