"""Load: bursts of Stripe's events against the whole local stack, delivered as badly as Stripe may, while every service
throttles. Nothing may be lost or doubled, and everybody must end as Stripe says.

Customers buy, change, renew, lapse, recover, cancel and come back; each event is delivered one to three times, in any
order, while the next things happen already. Whoever sends sees to it that at most OPEN executions are open, and
delivers again what was refused. What is open in the end is run again by RunDue, which is called by hand.
`python -m tests.bench.load EVENTS` plays it in a process of its own and prints what came of it.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.bench.measure import Table
from tests.local import moto_fixes
from tests.local.permissions import AwsCall
from tests.local.stack import Fault, Faults
from tests.workflow.oracle import Oracle
from tests.workflow.oracle import wrongs as wrong_users

if TYPE_CHECKING:
    from tests.e2e.conftest import Gateway, Json

REPOSITORY = Path(__file__).parents[2]

EVENTS = 5000
OPEN = 32
"""Executions that may be open at a time."""
BURST = 50
"""Events at least of what happens at once at Stripe."""
DELIVERIES = (1, 1, 1, 2, 2, 3)
"""How often an event may be delivered."""
SENDERS = 6
PARAMETERS = {"RetryAfterSeconds": "3600"}
"""Only what is made due is run again, so that no more than OPEN are."""
RETRY_SCALE = 0.1
"""Shorter, and a person's lease is asked for more often than a busy machine can answer."""
RUN_DUE = "RunDueFunctionEveryFiveMinutes"
ROUNDS = 60
"""Calls of RunDue at most; each runs up to OPEN orders again."""

COUNTS = {
    "deliveries": "deliveries",
    "refused": "of them refused, and made again",
    "executions": "executions",
    "most_open": "of them open at a time, at most",
    "failed": "of them failed, and run again",
    "rounds": "calls of RunDue in the end",
    "users": "users",
}
NOTE = (
    f"At most {OPEN} executions may be open. Lost: an order that is not fulfilled. Doubled: two users or welcome mails "
    "for an address, or a change told under two ids. Astray: a user, or what the authorizer or others know of them, is "
    "not as an independent reading of Stripe's state says."
)


class Storm(NamedTuple):
    """Of `every` calls of a service the last `length` are refused, all in a row."""

    every: int
    length: int
    code: str
    status: int = 400


STORMS = {
    "cognito-idp": Storm(300, 40, "TooManyRequestsException"),
    "dynamodb": Storm(2000, 160, "ProvisionedThroughputExceededException"),
    "events": Storm(20, 4, "ThrottlingException"),
    "lambda": Storm(400, 12, "TooManyRequestsException", 429),
    "secretsmanager": Storm(5, 2, "ThrottlingException"),
    "states": Storm(150, 16, "ThrottlingException"),
}


class Throttling(Faults):
    """Every AWS service has its storms: which calls they meet is counted, not drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def take(self, caller: str, call: AwsCall) -> Fault | None:
        storm = STORMS.get(call.service)
        if storm is None:
            return None
        with self._lock:
            self.calls[call.service] += 1
            turn, place = divmod(self.calls[call.service], storm.every)
            if place < storm.every - storm.length:
                return None
            self.refused[call.service] += 1
        # EventBridge has two ways to refuse: an error, and success with an entry that failed.
        status = 200 if call.service == "events" and turn % 2 else storm.status
        return Fault(call.service, None, None, storm.code, "Slow down.", status, None, applied=False, kill=False)


class Customers:
    """What happens at Stripe: the same for the same seed."""

    def __init__(self, gateway: "Gateway", random: Random) -> None:
        self.stripe, self.seat, self.random = gateway.stripe, gateway.seat, random
        self.subscriptions: list[str] = []
        self.buyers: list[tuple[str, str]] = []

    def burst(self) -> list[str]:
        """Things happen; the ids of the events that tell of them, of which there are at least BURST."""
        told: list[str] = []
        while len(told) < BURST:
            before = len(self.stripe.events)
            self._something_happens()
            told += [each["id"] for each in self.stripe.events[before:] if self.stripe.endpoints_for(each["type"])]
        return told

    def _something_happens(self) -> None:
        happens = self.random.choices(
            [self._buy, self._buy_more, self._change, self._renew, self._lapse_or_recover, self._cancel, self._return],
            [5, 1, 4, 4, 2, 2, 1],
        )[0]
        happens()

    def _buy(self) -> None:
        self._checkout(f"buyer{len(self.buyers):05d}@example.com", None)

    def _buy_more(self) -> None:
        """A second subscription of the same customer."""
        if self.buyers:
            self._checkout(*self.random.choice(self.buyers))

    def _return(self) -> None:
        """Checkout makes a new customer of whoever buys without saying who they are."""
        if self.buyers:
            self._checkout(self.random.choice(self.buyers)[0], None)

    def _checkout(self, email: str, customer: str | None) -> None:
        session = self.stripe.checkout(email, self.seat, self.random.randint(1, 9), customer=customer)
        self.subscriptions.append(session["subscription"])
        if customer is None:
            self.buyers.append((email, session["customer"]))

    def _change(self) -> None:
        for subscription in self._one():
            self.stripe.change_quantity(subscription, self.random.randint(1, 9))

    def _renew(self) -> None:
        for subscription in self._one():
            self.stripe.renew(subscription)

    def _lapse_or_recover(self) -> None:
        for subscription in self._one():
            lapsed = self.stripe.get("subscription", subscription)["status"] == "past_due"
            (self.stripe.recover_payment if lapsed else self.stripe.fail_payment)(subscription)

    def _cancel(self) -> None:
        for subscription in self._one():
            self.stripe.cancel(subscription)
            self.subscriptions.remove(subscription)

    def _one(self) -> list[str]:
        """A subscription that has not ended, if there is one."""
        return [self.random.choice(self.subscriptions)] if self.subscriptions else []


class Sender:
    """Delivers events as Stripe does, from several threads: what is refused comes again."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._sending = 0
        self._pool = ThreadPoolExecutor(SENDERS)
        self._workers = [self._pool.submit(self._work) for _ in range(SENDERS)]
        self.answers: Counter[int | None] = Counter()

    def send(self, events: Iterable[str]) -> None:
        for event in events:
            self._waiting.put(event)

    def wait(self, left: int = 0) -> None:
        """Until at most so many deliveries are still to be made."""
        with self._waiting.all_tasks_done:
            while self._waiting.unfinished_tasks > left and not any(each.done() for each in self._workers):
                self._waiting.all_tasks_done.wait(0.1)

    def close(self) -> None:
        for _ in self._workers:
            self._waiting.put(None)
        self._pool.shutdown()
        for worker in self._workers:
            worker.result()

    def _work(self) -> None:
        while (event := self._waiting.get()) is not None:
            with self._admitted():
                status = self._gateway.stripe.deliver(event)
            self.answers[status] += 1
            if status != 200:
                assert status is None or status >= 500, f"{event} was answered {status}"
                self._waiting.put(event)
            self._waiting.task_done()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Room for the one execution that a delivery may start."""
        with moto_fixes.execution_ended:
            moto_fixes.execution_ended.wait_for(lambda: len(self._gateway.stack._running()) + self._sending < OPEN)
            self._sending += 1
        try:
            yield
        finally:
            with moto_fixes.execution_ended:
                self._sending -= 1
                moto_fixes.execution_ended.notify_all()


@dataclass(frozen=True)
class Outcome:
    """What a load came to, and what went wrong, in words."""

    events: int
    deliveries: int
    refused: int
    executions: int
    failed: int
    rounds: int
    users: int
    most_open: int
    throttled: dict[str, int]
    seconds: float
    lost: list[str]
    doubled: list[str]
    astray: list[str]


def play(gateway: "Gateway", events: int, seed: int = 8) -> Outcome:
    """At least so many events, until all orders are fulfilled or RunDue was called often enough."""
    random, stripe, stack = Random(seed), gateway.stripe, gateway.stack
    started = time.monotonic()
    stripe.auto_deliver = False
    stack.faults = throttling = Throttling()
    moto_fixes.retry_scale = RETRY_SCALE
    customers, sender = Customers(gateway, random), Sender(gateway)
    told: list[str] = []
    late: list[str] = []
    try:
        while len(told) < events:
            burst = customers.burst()
            told += burst
            deliveries = late + [event for event in burst for _ in range(random.choice(DELIVERIES))]
            random.shuffle(deliveries)
            late = deliveries[: len(deliveries) // 4]
            stripe.faults.fail_next(8, 429)
            stripe.faults.fail_next(8, 503)
            sender.send(deliveries[len(late) :])
            sender.wait(BURST // 2)
        sender.wait()
        stripe.faults.restore()
        stripe.faults.fail_next(1_000_000, 403)  # the last ones come while Stripe refuses our key: nothing retries that
        sender.send(late)
        sender.wait()
        stack.wait_idle(300)
        stripe.faults.restore()
    finally:
        sender.close()
    rounds = _run_what_is_open(gateway)
    stack.faults = Faults()
    seconds = time.monotonic() - started
    runs, rows, users = list(stack._executions()), gateway.rows(), _users(gateway)
    return Outcome(
        events=len(told),
        deliveries=sender.answers.total(),
        refused=sender.answers.total() - sender.answers[200],
        executions=len(runs),
        failed=sum(each.exec_status != "SUCCEEDED" for each in runs),
        rounds=rounds,
        users=len(users),
        most_open=_most_open(runs),
        throttled={**throttling.refused, "stripe": sum(each["status"] in (429, 503) for each in stripe.requests)},
        seconds=seconds,
        lost=list(_lost(rows, told)),
        doubled=[*_doubled(gateway, users), *_told_twice(gateway)],
        astray=[*_astray(gateway, users, rows), *_told_wrongly(gateway, users)],
    )


def _run_what_is_open(gateway: "Gateway") -> int:
    """RunDue, as long as an order is open; before each call enough time has passed for OPEN of them."""
    for rounds in range(ROUNDS):
        gateway.stack.wait_idle(300)
        waiting = [row for row in gateway.rows("ORDER#") if row["state"] != "FULFILLED"]
        if not waiting:
            return rounds
        gateway.expire_leases()
        now = int(time.time())
        for row in waiting[:OPEN]:
            gateway.set_order(row["event_id"], due_at=now, attempt_at=now - 15 * 60)
        gateway.stack.run_schedules(RUN_DUE)  # may be throttled itself: the next call goes on
    return ROUNDS


def _most_open(runs: Iterable[Any]) -> int:
    """The most executions that were open at a time, by their histories."""
    turns = [turn for each in runs for turn in ((each.start_date, 1), (each.stop_date, -1))]
    most = now = 0
    for _, turn in sorted(turns):
        now += turn
        most = max(most, now)
    return most


# ------------------------------------------------------------------ the judgement


@dataclass(frozen=True)
class User:
    """A Cognito user, as the oracle reads one."""

    sub: str
    email: str
    enabled: bool
    limit: int
    payment_status: str
    disabled_by: str
    provider: str


def _lost(rows: list["Json"], told: Iterable[str]) -> Iterator[str]:
    """Every event has an order, and every order is fulfilled."""
    orders = {row["event_id"]: row for row in rows if row["sk"] == "ORDER"}
    for event in told:
        if event not in orders:
            yield f"{event} is lost"
    for event, order in orders.items():
        if order["state"] != "FULFILLED":
            yield f"{event} is {order['state']}: {order.get('last_error')}"


def _doubled(gateway: "Gateway", users: Iterable[User]) -> Iterator[str]:
    """One user for each address, and one welcome mail for each user."""
    addresses = Counter(user.email.lower() for user in users)
    mails = Counter(mail.to.lower() for mail in gateway.stack.outbox)
    for address in addresses.keys() | mails.keys():
        if (addresses[address], mails[address]) != (1, 1):
            yield f"{address} has {addresses[address]} users and got {mails[address]} welcome mails"


def _astray(gateway: "Gateway", users: list[User], rows: list["Json"]) -> Iterator[str]:
    """Everybody stands as the oracle says, and the authorizer says the same."""
    oracle = Oracle(gateway.stripe, int(time.time()))
    links = {row["pk"].removeprefix("PARTY#"): row["sub"] for row in rows if row["sk"] == "PARTY" and "sub" in row}
    nothing_by_hand = SimpleNamespace(before={}, banned={}, comped={}, deleted={})
    yield from wrong_users(oracle, users, links, nothing_by_hand)
    live = {row["sub"]: (row.get("active"), row.get("dapp_limit")) for row in rows if row["sk"] == "PERSON"}
    for user in users:
        if live.get(user.sub) != (user.enabled, user.limit):
            yield f"{user.email} is {user.enabled, user.limit}, and the authorizer says {live.get(user.sub)}"
    for row in rows:
        if row["sk"] == "LEASE" and row["expires_at"] > time.time():
            yield f"{row['pk']} is still held"


def _told_twice(gateway: "Gateway") -> Iterator[str]:
    """A change is told under one id, however often it is sent: from how the user stood to how they stood then."""
    notices = _notices(gateway)
    for sub, sent in notices.items():
        distinct = {json.dumps(each, sort_keys=True) for each in sent}
        changes = sorted(map(json.loads, distinct), key=_number)
        stood = None
        for number, change in enumerate(changes, 1):
            if change["id"] != f"{sub}-{number}" or change["before"] != stood or change["after"] == stood:
                yield f"{change['id']} is not the next that was to be told of {sub}: {change}"
            stood = change["after"]


def _told_wrongly(gateway: "Gateway", users: Iterable[User]) -> Iterator[str]:
    """What others were told last is how the user stands."""
    notices = _notices(gateway)
    for user in users:
        told = max(notices[user.sub], key=_number, default={"after": None})
        stands = {"enabled": user.enabled, "dapp_limit": user.limit, "payment_status": user.payment_status}
        if told["after"] != stands:
            yield f"{user.email} is {stands}, and others were told {told['after']}"


def _number(notice: "Json") -> int:
    """The how manieth change of its user it tells."""
    return int(notice["id"].rpartition("-")[2])


def _notices(gateway: "Gateway") -> dict[str, list["Json"]]:
    """What was published about each user."""
    notices: dict[str, list[Json]] = defaultdict(list)
    for event in gateway.published():
        notices[event["detail"]["sub"]].append(event["detail"])
    return notices


def _users(gateway: "Gateway") -> list[User]:
    pages = (
        gateway.stack.client("cognito-idp").get_paginator("list_users").paginate(UserPoolId=gateway.stack.user_pool_id)
    )
    found = []
    for user in (user for page in pages for user in page["Users"]):
        attributes = {each["Name"]: each["Value"] for each in user["Attributes"]}
        found.append(
            User(
                sub=attributes["sub"],
                email=attributes["email"],
                enabled=user["Enabled"],
                limit=int(attributes.get("custom:num_dapps", "-1")),
                payment_status=attributes.get("custom:payment_status", ""),
                disabled_by=attributes.get("custom:disabled_by", ""),
                provider=attributes.get("custom:payment_provider", ""),
            )
        )
    return found


# ------------------------------------------------------------------ the benchmark


def bench() -> Table:
    found = in_own_process("tests.bench.load", str(EVENTS))
    print(*found["lost"], *found["doubled"], *found["astray"], sep="\n", end="", file=sys.stderr)
    rows = [
        ("events", f"{found['events']:,}"),
        *((meaning, f"{found[name]:,}") for name, meaning in COUNTS.items()),
        ("calls refused", ", ".join(f"{service} {count:,}" for service, count in sorted(found["throttled"].items()))),
        *((f"{kind} (goal 0)", f"{len(found[kind]):,}") for kind in ("lost", "doubled", "astray")),
        ("time", f"{found['seconds']:,.0f} s: {found['events'] / found['seconds']:.1f} events a second"),
        ("peak memory of the stack, with the history of every execution", f"{found['memory']:,} MiB"),
    ]
    return Table(f"Load: {EVENTS:,} events while every service throttles", ("", ""), rows, NOTE)


def in_own_process(module: str, *arguments: str) -> Any:
    """What a module of this package prints, as JSON; a stack needs a process of its own, and its memory is seen so."""
    played = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'functions'}"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(played.stdout)


def main(events: int) -> None:
    """Play it here, and print the outcome as JSON."""
    from tests.local.isolation import forget_the_world

    forget_the_world()
    import resource

    from tests.e2e.conftest import Gateway

    with tempfile.TemporaryDirectory() as folder, Gateway(Path(folder), **PARAMETERS) as gateway:
        outcome = play(gateway, events)
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    print(json.dumps(asdict(outcome) | {"memory": memory}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
