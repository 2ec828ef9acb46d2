"""How long a buyer waits, and how many can buy: from Checkout to a user who is enabled with the limit that was paid for
and let in by the authorizer; one at a time, four, sixteen.

The whole local stack on this machine: Stripe stand-in, signed webhooks, Step Functions with real executions, functions
under AWS's runtime client. Where the time goes is taken from the calls between these parts. AWS is faster at some of
it and slower at other; what stays is what follows what, and how it grows with the crowd.
"""

import json
import re
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from tests.bench.load import in_own_process
from tests.bench.measure import Table
from tests.local import lambda_service, moto_fixes, stripe_http
from tests.local.stack import LocalStack

if TYPE_CHECKING:
    from tests.e2e.conftest import Gateway, Json

PURCHASES = {1: 6, 4: 12, 16: 24}
"""So many, by how many at once: a buyer buys when the one before has got their user."""
ROUNDS = 2

_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d+/[^/]+/([^/]+)/aws4_request")
_SERVICES = {
    "cognito-idp": "Cognito",
    "dynamodb": "DynamoDB",
    "events": "EventBridge",
    "secretsmanager": "Secrets Manager",
    "states": "StartExecution",
}
_WAITING = f"waiting for one of {lambda_service.DEFAULT_ENVIRONMENTS} containers"
_STRIPE, _TASKS, _RETRIES, _MACHINE = "Stripe", "tasks", "waiting to try again", "the state machine itself"
_NOTE = (
    "A buyer comes when the one before has got their user; the rate counts until the last execution has ended, with "
    "every retry as late as it is. The parts are milliseconds per purchase, of its {executions:.1f} executions "
    "together, most of which run beside each other; a function's are its own, without the services that it calls. AWS "
    "would start more containers."
)


class Clock:
    """Seconds spent in each part of the stack."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answering = threading.local()
        self.spent: dict[str, float] = defaultdict(float)
        self.changed = threading.Condition()

    def add(self, part: str, seconds: float) -> None:
        with self._lock:
            self.spent[part] += seconds

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - started)

    def reset(self) -> None:
        with self._lock:
            self.spent.clear()

    # -------------------------------------------------------------- between the parts

    def container(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """An invocation in its container. `_Pool.run` waits for one first."""

        def run(environment: Any, payload: bytes) -> Any:
            started = time.perf_counter()
            try:
                return original(environment, payload)
            finally:
                seconds = time.perf_counter() - started
                self.add(environment.function.logical_id, seconds)
                self.add(_WAITING, -seconds)

        return run

    def pool(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(pool: Any, payload: bytes) -> Any:
            with self.timing(_WAITING):
                return original(pool, payload)

        return run

    def aws(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A call to an AWS service: of a function, or the state machine's of a function."""

        def answer(stack: LocalStack, environ: "Json", start_response: Any) -> Any:
            found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
            caller = stack._permissions._callers.get(found[1]) if found and stack._permissions else None
            if found is None or caller is None:
                return original(stack, environ, start_response)
            if found[2] == "lambda":
                with self.timing(_TASKS):
                    return original(stack, environ, start_response)
            started = time.perf_counter()
            try:
                return original(stack, environ, start_response)
            finally:
                seconds = time.perf_counter() - started
                self.add(_SERVICES[found[2]], seconds)
                self.add(caller[0], -seconds)
                with self.changed:
                    self.changed.notify_all()

        return answer

    def sleep(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The state machine waits before it tries again."""

        def sleep(seconds: float) -> None:
            with self.timing(_RETRIES):
                original(seconds)

        return sleep

    def stripe(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A call to Stripe; only ReadBilling makes any."""

        def answer(app: Any, environ: "Json", start_response: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(app, environ, start_response)
            finally:
                seconds = time.perf_counter() - started
                self.add(_STRIPE, seconds)
                self.add("ReadBillingFunction", -seconds)

        return answer


class Shop:
    """Buyers, and what becomes of their purchases."""

    def __init__(self, gateway: "Gateway", clock: Clock) -> None:
        self._stripe, self._seat, self._clock = gateway.stripe, gateway.seat, clock
        stack = gateway.stack
        self._rows = dynamodb_backends[stack.account_id][stack.region].tables[stack.orders_table]
        self._users = stack._pool(stack.user_pool_id)

    def buy(self, email: str, quantity: int) -> float:
        """Seconds until the user is usable."""
        started = time.perf_counter()
        self._stripe.checkout(email, self._seat, quantity)
        with self._clock.changed:
            if not self._clock.changed.wait_for(lambda: self._usable(email, quantity), 120):
                raise TimeoutError(f"{email} has no access")
        return time.perf_counter() - started

    def _usable(self, email: str, quantity: int) -> bool:
        """Seen where the services keep it: asking them would be load."""
        user = self._users._get_user(email)
        if user is None or not user.enabled or user.attribute_lookup.get("custom:num_dapps") != str(quantity):
            return False
        row = self._rows.get_item(DynamoType({"S": f"PERSON#{user.id}"}), DynamoType({"S": "PERSON"}))
        live = {name: row.attrs[name].value for name in ("active", "dapp_limit") if name in row.attrs} if row else {}
        return live == {"active": True, "dapp_limit": str(quantity)}


def measure(gateway: "Gateway", clock: Clock) -> dict[int, "Json"]:
    """By how many at once: each purchase's seconds, the seconds of all, and of each part."""
    shop = Shop(gateway, clock)
    found: dict[int, Json] = {}
    bought = 0

    def buy(times: int, at_once: int) -> list[float]:
        nonlocal bought
        first, bought = bought, bought + times
        with ThreadPoolExecutor(at_once) as buyers:
            emails = [f"buyer{number}@example.com" for number in range(first, bought)]
            waited = list(buyers.map(shop.buy, emails, [1 + number % 9 for number in range(times)]))
        assert gateway.stripe.wait_delivered(120)
        gateway.stack.wait_idle(120)
        return waited

    buy(max(PURCHASES), max(PURCHASES))  # every container is warm
    for _ in range(ROUNDS):
        for at_once, times in PURCHASES.items():
            ran = len(list(gateway.stack._executions()))
            clock.reset()
            started = time.perf_counter()
            waited = buy(times, at_once)
            seconds = time.perf_counter() - started
            runs = list(gateway.stack._executions())[ran:]
            clock.add(_MACHINE, sum((each.stop_date - each.start_date).total_seconds() for each in runs))
            clock.add(_MACHINE, -clock.spent[_TASKS] - clock.spent[_RETRIES])
            one = found.setdefault(at_once, {"waited": [], "seconds": 0.0, "runs": 0, "spent": defaultdict(float)})
            one["waited"] += waited
            one["seconds"] += seconds
            one["runs"] += len(runs)
            for part, spent in clock.spent.items():
                one["spent"][part] += spent
    return found


def bench() -> Table:
    found = in_own_process("tests.bench.throughput")
    crowds = list(found.values())
    parts = {part: [each["spent"].get(part, 0) for each in crowds] for each in crowds for part in each["spent"]}
    parts.pop(_TASKS)
    order = sorted(parts, key=lambda part: -sum(parts[part]))
    rows = [
        ("purchases a second", *(f"{len(each['waited']) / each['seconds']:.2f}" for each in crowds)),
        ("purchase to usable user, p50", *(_seconds(each["waited"], 50) for each in crowds)),
        ("purchase to usable user, p95", *(_seconds(each["waited"], 95) for each in crowds)),
        *(
            (f"in {_name(part)}", *_milliseconds(parts[part], crowds))
            for part in order
            if _matters(parts[part], crowds)
        ),
    ]
    executions = sum(each["runs"] for each in crowds) / sum(len(each["waited"]) for each in crowds)
    columns = ("", *(f"{at_once} at once" for at_once in found))
    return Table("From Checkout to a usable user, on this machine", columns, rows, _NOTE.format(executions=executions))


def _seconds(waited: list[float], percentile: int) -> str:
    return f"{statistics.quantiles(waited, n=100, method='inclusive')[percentile - 1]:.2f} s"


def _milliseconds(spent: list[float], crowds: list["Json"]) -> Iterator[str]:
    for seconds, crowd in zip(spent, crowds, strict=True):
        yield f"{1000 * seconds / len(crowd['waited']):,.0f} ms"


def _matters(spent: list[float], crowds: list["Json"]) -> bool:
    """A millisecond a purchase."""
    return any(seconds / len(crowd["waited"]) >= 0.001 for seconds, crowd in zip(spent, crowds, strict=True))


def _name(part: str) -> str:
    return part.removesuffix("Function")


def main() -> None:
    """Measure here, and print what was found as JSON."""
    from tests.local.isolation import forget_the_world

    forget_the_world()
    from tests.e2e.conftest import Gateway

    clock = Clock()
    between = (
        (lambda_service._Pool, "run", clock.pool),
        (lambda_service._Environment, "run", clock.container),
        (LocalStack, "_answer_aws", clock.aws),
        (moto_fixes.retrier_decl.time, "sleep", clock.sleep),
        (stripe_http.StripeApp, "__call__", clock.stripe),
    )
    with ExitStack() as opened:
        for owner, name, timed in between:
            opened.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        gateway = opened.enter_context(Gateway(Path(folder)))
        moto_fixes.retry_scale = 1
        print(json.dumps(measure(gateway, clock)))


if __name__ == "__main__":
    main()
