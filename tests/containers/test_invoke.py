"""`sam local invoke` of every function, with its event from tests/events."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import Outcome, World, local_invoke, outcome
from tests.containers.conftest import event as recorded
from tests.containers.engine import WITH_LAYER
from tests.e2e.conftest import REPOSITORY, Json
from tests.local.template import read
from tests.template.conftest import answered

FUNCTIONS = {
    name: resource["Properties"]["Handler"].removesuffix(".handler")
    for name, resource in read(REPOSITORY / "template.yaml")["Resources"].items()
    if resource["Type"] == "AWS::Serverless::Function"
}
"""Every function of the template, and its file."""

_PASSING = re.compile(r"(?<!\d)1[78]\d{8}(?!\d)|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,}")
"""What is different at every call: moments, and random ids."""


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


def without_what_passes(document: Any) -> Any:
    return json.loads(_PASSING.sub("…", json.dumps(document)))


def test_functions_are_found() -> None:
    assert FUNCTIONS["ReadOrdersFunction"] == "read_orders"
    assert len(FUNCTIONS) == len(list((REPOSITORY / "functions").glob("*.py")))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_container_answers_as_the_local_stack_does(world: World, host: str, tmp_path: Path, function: str) -> None:
    """With the same AWS, Stripe and moment before it, and as its docstring says."""
    file = FUNCTIONS[function]
    event = json.loads(recorded(file).read_text(encoding="utf-8"))
    with cloudformation(host) as asking:
        if "ResponseURL" in event:
            event["ResponseURL"] = asking.url
        path = tmp_path / "event.json"
        path.write_text(json.dumps(event), encoding="utf-8")
        with world.undone():
            expected = in_process(world, function, event)
        with world.undone():
            found = local_invoke(world.without_layer, function, path, "--invoke-image", WITH_LAYER)
        assert without_what_passes(found[:2]) == without_what_passes(expected[:2])
        assert len(asking.told) == (2 if "ResponseURL" in event else 0)
        assert without_what_passes(asking.told[:1]) == without_what_passes(asking.told[1:])
    as_documented((REPOSITORY / f"functions/{file}.py").read_text(encoding="utf-8"), found)


def as_documented(source: str, found: Outcome) -> None:
    """The answer's fields, its status or the error's name are what the function's contract says."""
    contract = source.split('"""')[1]
    if found.error:
        assert re.search(rf"(?s)raises.*\b{found.error[0]}\b", contract), found.error
    elif isinstance(found.answer, dict) and "statusCode" in found.answer:
        assert re.search(rf"(?s)out .*\b{found.answer['statusCode']}\b", contract), found.answer
    elif keys := answered(source):
        assert found.answer.keys() == keys


@pytest.mark.parametrize(
    "found",
    [
        Outcome({"enabled": True}, None),
        Outcome({"statusCode": 418}, None),
        Outcome(None, ("KeyError", "'run'")),
    ],
)
def test_an_answer_that_no_contract_has_is_found(found: Outcome) -> None:
    source = (
        '"""Does.\n\nout     200 {"done"}\nraises  LedgerThrottled\n"""\ndef handler(run):\n    return {"done": True}\n'
    )
    as_documented(source, Outcome({"done": True}, None))
    as_documented(source, Outcome({"statusCode": 200}, None))
    as_documented(source, Outcome(None, ("LedgerThrottled", "")))
    with pytest.raises(AssertionError):
        as_documented(source, found)
