"""The product on its local stack, as in tests/e2e, but listening where containers reach it; and the SAM CLI's commands,
which run its functions as `sam build` made them.

`make test-containers` (python -m tests.containers) puts a Docker engine around these tests.
"""

import copy
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from moto.cognitoidp.models import CognitoIdpUser, cognitoidp_backends
from moto.dynamodb.models import dynamodb_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.stepfunctions.parser.models import stepfunctions_parser_backends

from gateway.ledger import Ledger
from tests.containers.engine import WITH_LAYER, answers, gateway
from tests.e2e.conftest import REPOSITORY, Gateway, until

SUB = "11111111-2222-4333-8444-555555555555"
"""Of the user whom the events in tests/events are about. Their customer is cus_1, who pays for sub_1."""

BUYER = "payer@example.com"

TOMBSTONE = "2f1c7a9be05d4e6388c1b0a4d97f35e26b8c041d"
"""The deletion of theirs in tests/events."""


# The SAM CLI draws each container's port some time before it takes it: another worker of pytest could draw the same.
_OWN = f"127.0.0.{2 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"
OWN_ADDRESS = ("--container-host", _OWN, "--container-host-interface", _OWN)


class Outcome(NamedTuple):
    """What a function answered, or its error by name and message (NoAnswer: it was killed)."""

    answer: Any
    error: tuple[str, str] | None
    log: str = ""


def outcome(document: Any, log: str = "") -> Outcome:
    """The emulator of the SAM CLI never says that a function failed: only the document itself does."""
    if isinstance(document, dict) and "errorType" in document:
        return Outcome(None, (document["errorType"], document["errorMessage"]), log)
    return Outcome(document, None, log)


def sam(*arguments: str | Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs the SAM CLI as a developer would, in the folder of the repository."""
    return subprocess.run(
        ["sam", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=seconds, check=False
    )


def local_invoke(template: Path, function: str, event: Path) -> Outcome:
    """`sam local invoke`, in the image that has the layer: the template has none."""
    options = ("--event", event, "--template", template, "--invoke-image", WITH_LAYER)
    done = sam("local", "invoke", function, *options, *OWN_ADDRESS)
    assert done.returncode == 0, done.stderr
    if not done.stdout.strip():
        return Outcome(None, ("NoAnswer", ""), done.stderr)
    return outcome(json.loads(done.stdout), done.stderr)


class Server(NamedTuple):
    """A server of the SAM CLI: where it answers, host and port, and what it says."""

    address: str
    log: Path


@contextmanager
def serving(command: str, template: Path) -> Iterator[Server]:
    """`sam local start-api` or `start-lambda`, with containers that stay."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = template.parent / f"{command}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("sam", "local", command, "--template", template, *OWN_ADDRESS),
                *("--port", str(port), "--warm-containers", "LAZY"),
            ],
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def answering() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answering, 120)
        yield Server(f"127.0.0.1:{port}", log)
    finally:
        process.terminate()  # it removes its containers; an interrupt is ignored where nobody sits at a terminal
        process.wait(60)


def event(file: str) -> Path:
    """The event of a function in tests/events."""
    return REPOSITORY / "tests" / "events" / f"{file}.json"


@dataclass(frozen=True)
class World:
    """The running product, in which the person of tests/events has bought three dapps."""

    gateway: Gateway
    template: Path
    """template.yaml for `sam local`."""
    without_layer: Path
    """The same for an image that has the layer already."""

    def changed(self, folder: Path, function: str, **properties: Any) -> Path:
        """The template without layer, with other properties of one function."""
        document = json.loads(self.without_layer.read_text(encoding="utf-8"))
        document["Resources"][function]["Properties"] |= properties
        path = folder / "template.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever happens to ledger, users, secrets, executions and Stripe in this block is undone after it."""
        stack, stripe = self.gateway.stack, self.gateway.stripe
        account, region = stack.account_id, stack.region
        rows = dynamodb_backends[account][region].tables[stack.orders_table].items
        users = cognitoidp_backends[account][region].user_pools[stack.user_pool_id].users
        secrets = secretsmanager_backends[account][region].secrets
        machines = stepfunctions_parser_backends[account][region].state_machines
        changing = (rows, users, secrets, *stripe.objects.values())
        kept = [(each, copy.deepcopy(dict(each), {id(each): each})) for each in changing]
        links = copy.deepcopy(stripe._links)
        executions = [(machine.executions, list(machine.executions)) for machine in machines]
        try:
            yield
        finally:
            self.gateway.settle()
            for now, before in kept:
                now.clear()
                now.update(before)
            stripe._links = links
            for now, before in executions:
                now[:] = before


@pytest.fixture(scope="session")
def host() -> str:
    """The address by which containers reach this machine."""
    assert answers(), "no Docker engine answers: run make test-containers"
    return gateway()


@pytest.fixture(scope="session")
def world(host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests: those that change it undo that."""
    folder = tmp_path_factory.mktemp("world")
    with Gateway(folder, host=host) as opened:
        _buy(opened)
        template, without_layer = folder / "template.json", folder / "without_layer.json"
        document = opened.stack.for_sam()
        template.write_text(json.dumps(document), encoding="utf-8")
        del document["Globals"]["Function"]["Layers"]
        without_layer.write_text(json.dumps(document), encoding="utf-8")
        yield World(opened, template, without_layer)


def _buy(gateway: Gateway) -> None:
    """A purchase, with the ids that tests/events name, and a deletion that somebody has asked for."""
    stripe, made = gateway.stripe, CognitoIdpUser.__init__

    def make(user: CognitoIdpUser, *arguments: Any, **more: Any) -> None:
        made(user, *arguments, **more)
        user.username = SUB if user.username == user.id else user.username
        user.id = SUB
        user.update_attributes([{"Name": "sub", "Value": SUB}])

    new_id = stripe.new_id
    stripe.auto_deliver = False
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stripe, "new_id", lambda kind: f"{kind}_1" if kind in ("cus", "sub", "evt") else new_id(kind))
        patched.setattr(CognitoIdpUser, "__init__", make)
        with stripe.unheard(time.time()):
            customer = stripe.create_customer(BUYER)["id"]
            subscription = stripe.create_subscription(customer, gateway.seat, 3)
        assert stripe.deliver(stripe.emit("customer.subscription.created", subscription)) == 200
        gateway.settle()
    user = gateway.user(BUYER)
    assert user is not None
    assert (user.sub, user.customer, user.limit) == (SUB, "cus_1", 3)
    ledger = Ledger(gateway.stack.client("dynamodb"), gateway.stack.orders_table)
    assert ledger.begin_deletion(TOMBSTONE, None, int(time.time()), email=BUYER, sub=None, requested_by="operator")
