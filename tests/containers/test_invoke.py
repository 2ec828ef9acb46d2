"""`sam local invoke` of every function, with its event from tests/events."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import Outcome, World, local_invoke, outcome
from tests.containers.conftest import event as recorded
from tests.e2e.conftest import REPOSITORY, Json
from tests.local.template import read
from tests.template.conftest import answered

FUNCTIONS = {
    name: resource["Properties"]["Handler"].removesuffix(".handler")
    for name, resource in read(REPOSITORY / "template.yaml")["Resources"].items()
    if resource["Type"] == "AWS::Serverless::Function"
}
"""Every function of the template, and its file."""

_MOMENT = re.compile(r"(?<!\d)1[78]\d{8}(?!\d)")
_RANDOM = re.compile(r"[0-9a-f]{32,}")


class CloudFormation(ThreadingHTTPServer):
    """Takes what custom resources answer, each at the URL that is in its event."""

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), _Answers)
        self.url = f"http://{host}:{self.server_port}/answer?signature=x"
        self.told: list[Json] = []


class _Answers(BaseHTTPRequestHandler):
    server: CloudFormation

    def do_PUT(self) -> None:
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Answers are in `told`."""


@contextmanager
def cloudformation(host: str) -> Iterator[CloudFormation]:
    with CloudFormation(host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def in_process(world: World, function: str, event: Json) -> Outcome:
    """What the local stack's own process of the function answers."""
    answer, error = world.gateway.stack.invoke(function, event)
    return outcome(error or answer)


def lasting(document: Any, world: World) -> Any:
    """Without what is different at every call: moments, random ids, and those that Stripe counts."""
    text = _RANDOM.sub("random", _MOMENT.sub("0", json.dumps(document)))
    return json.loads(re.sub(rf"{world.gateway.stripe._tag}\d+", "counted", text))


def test_functions_are_found() -> None:
    assert FUNCTIONS["ReadOrdersFunction"] == "read_orders"
    assert len(FUNCTIONS) == len(list((REPOSITORY / "functions").glob("*.py")))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_container_answers_as_the_local_stack_does(world: World, host: str, tmp_path: Path, function: str) -> None:
    """With the same AWS and Stripe before it, and as its docstring says."""
    file = FUNCTIONS[function]
    event = json.loads(recorded(file).read_text(encoding="utf-8"))
    path = tmp_path / "event.json"
    with cloudformation(host) as asking:
        if "ResponseURL" in event:
            event["ResponseURL"] = asking.url
        path.write_text(json.dumps(event), encoding="utf-8")
        expected, expected_told = told_by(world, asking, lambda: in_process(world, function, event))
        found, told = told_by(world, asking, lambda: local_invoke(world.without_layer, function, path))
    assert found.error is None, found
    assert lasting(found.answer, world) == lasting(expected.answer, world)
    assert lasting(told, world) == lasting(expected_told, world)
    assert [each["Status"] for each in told] == (["SUCCESS"] if "ResponseURL" in event else [])
    as_documented((REPOSITORY / f"functions/{file}.py").read_text(encoding="utf-8"), found.answer)


def told_by(world: World, asking: CloudFormation, invoke: Callable[[], Outcome]) -> tuple[Outcome, list[Json]]:
    """What comes of it, and what CloudFormation is told."""
    asking.told.clear()
    with world.undone():
        found = invoke()
    return found, list(asking.told)


def as_documented(source: str, answer: Any) -> None:
    """Its status, or its fields, are what the function's contract says."""
    if isinstance(answer, dict) and "statusCode" in answer:
        assert re.search(rf"(?s)out .*\b{answer['statusCode']}\b", source.split('"""')[1]), answer
    elif keys := answered(source):
        assert answer.keys() <= keys
        assert answer


@pytest.mark.parametrize("answer", [{}, {"enabled": True}, {"statusCode": 418}])
def test_an_answer_that_no_contract_has_is_found(answer: Json) -> None:
    source = '"""Does.\n\nout     200 {"done"}\n"""\ndef handler(run):\n    return {"done": True}\n'
    as_documented(source, {"done": True})
    as_documented(source, {"statusCode": 200})
    with pytest.raises(AssertionError):
        as_documented(source, answer)
