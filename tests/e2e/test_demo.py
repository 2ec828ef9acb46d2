"""`make demo` and `make serve`, started as a person starts them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config

from tests.local.demo import LIFE
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_delivery import send
from tests.local.stripe_http import StripeServer
from tests.local.terminal import Report

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 90
ADDRESSES = {
    "api",
    "aws_endpoint",
    "stripe_api",
    "user_pool_id",
    "user_pool_client_id",
    "webhook_secret",
    "state_machine_arn",
    "orders_table",
    "region",
}

TOO_LITTLE = """
import sys
from tests.local import demo
from tests.local.stripe_account import StripeAccount

class Miser(StripeAccount):
    def change_quantity(self, subscription, quantity, item=None):
        return super().change_quantity(subscription, quantity - 1, item)

sys.exit(demo.main(Miser()))
"""

TOO_TRUSTING = """
import base64, json, sys
from tests.local import demo, front

def believe(api, route, authorizer, event):
    claims = event["headers"]["authorization"].split(".")[1]
    return {"sub": json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]}

front.HttpApi._verdict = believe
sys.exit(demo.main())
"""


def environment(**more: str) -> dict[str, str]:
    rest = {name: value for name, value in os.environ.items() if name not in ("PORT", "STRIPE_API_BASE")}
    return {**rest, **more}


def python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment(**more),
        capture_output=True,
        encoding="utf-8",
        timeout=2 * PATIENCE,
    )


def until(happened: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Waits for something that nothing announces, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


# ---------------------------------------------------------------------------------------------- demo


class TestDemo:
    def test_every_step_is_as_it_should_be(self) -> None:
        done = python("-m", "tests.local", "demo", PYTHONIOENCODING="utf-8")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        for number, step in enumerate(LIFE, 1):
            assert re.search(rf"^ +{number}\. {step.__doc__} +ok +[1-9]\d* +[\d.]+$", done.stdout, re.MULTILINE)
        assert re.search(rf"^{len(LIFE)} steps, \d+ checks, \d+ s: everything is as it should be$", done.stdout, re.M)
        assert "DecideAccess > DisableUser" in done.stdout.replace("\n", " ")
        assert "Authorization: Bearer eyJ" in done.stdout
        assert "\x1b" not in done.stdout

    def test_a_limit_that_is_not_as_it_should_be_fails_it(self) -> None:
        done = python("-c", TOO_LITTLE, PYTHONIOENCODING="utf-8")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "✗ custom:num_dapps\n     expected: 5\n     actual:   4\n" in done.stdout
        outcomes = re.findall(r"^ +\d\. .+?  +(ok|FAILED|not played) ", done.stdout, re.MULTILINE)
        assert outcomes == ["ok", "ok", "FAILED", *["not played"] * 6]
        assert "NOT as it should be" in done.stdout.splitlines()[-1]
        log = re.search(r"log of the functions: (.+)", done.stdout)
        assert log
        assert "SetDappLimit" in Path(log[1]).read_text(encoding="utf-8")

    def test_dapps_for_a_token_of_somebody_who_has_lost_access_fail_it(self) -> None:
        done = python("-c", TOO_TRUSTING, PYTHONIOENCODING="utf-8")
        assert done.returncode == 1, done.stdout + done.stderr
        shown = re.escape("✗ list dapps with it\n     expected: (403, {'message': 'Forbidden'})\n     actual:   (200, ")
        assert re.search(shown, done.stdout), done.stdout
        outcomes = re.findall(r"^ +\d\. .+?  +(ok|FAILED|not played) ", done.stdout, re.MULTILINE)
        assert outcomes == ["ok", "ok", "ok", "FAILED", *["not played"] * 5]
        assert "NOT as it should be" in done.stdout.splitlines()[-1]

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (lambda report: report.check("limit", 3, 5), "✗ limit\n     expected: 5\n     actual:   3"),
            (lambda report: {}["gone"], "✗ KeyError: 'gone'"),
            (lambda report: None, "✗ the step checked nothing"),
        ],
        ids=["a wrong value", "an exception", "no check"],
    )
    def test_one_wrong_step_ends_it(self, wrong: Callable[[Report], object], said: str) -> None:
        out, played = io.StringIO(), []
        report = Report(out, Path("functions.log"))
        report.play("right", lambda: report.check("limit", 3, 3))
        report.play("wrong", lambda: wrong(report) and None)
        report.play("after", lambda: played.append("after"))
        assert report.summary() == 1
        assert said in out.getvalue()
        assert "log of the functions: functions.log" in out.getvalue()
        assert [result.outcome for result in report.results] == ["ok", "FAILED", "not played"]
        assert played == []

    def test_nothing_played_is_nothing_proved(self) -> None:
        assert Report(io.StringIO(), Path("functions.log")).summary() == 1

    @pytest.mark.parametrize(
        ("terminal", "variables", "coloured"),
        [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
    )
    def test_colours_are_for_terminals(
        self, terminal: bool, variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("NO_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        out = io.StringIO()
        out.isatty = lambda: terminal  # type: ignore[method-assign]
        report = Report(out, Path("functions.log"))
        report.play("right", lambda: report.check("limit", 3, 3))
        assert report.summary() == 0
        assert ("\x1b[32m" in out.getvalue()) is coloured


# --------------------------------------------------------------------------------------------- serve


class Served:
    """A running `make serve`."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err
        line = until(lambda: process.poll() is not None or (out.read_bytes().endswith(b"\n") and out.read_text()))
        assert isinstance(line, str), self.said()
        self.line = line
        self.at: dict[str, str] = json.loads(line)

    def said(self) -> str:
        """To people."""
        return self._err.read_text(encoding="utf-8")

    def end(self, number: signal.Signals) -> int:
        """The exit status after this signal."""
        self._process.send_signal(number)
        return self._process.wait(30)

    def all_of_stdout(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @contextmanager
    def client(self, service: str) -> Iterator[Any]:
        """boto3 as anybody would use it, with nothing but the JSON line."""
        client = boto3.client(
            service,
            endpoint_url=self.at["aws_endpoint"],
            region_name=self.at["region"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}),
        )
        try:
            yield client
        finally:
            client.close()

    def user(self, email: str) -> dict[str, str]:
        """The attributes of the one user with this address, once there is one."""
        with self.client("cognito-idp") as cognito:
            found = until(
                lambda: cognito.list_users(UserPoolId=self.at["user_pool_id"], Filter=f'email = "{email}"')["Users"]
            )
        (user,) = found
        assert user["Enabled"]
        return {each["Name"]: each["Value"] for each in user["Attributes"]}

    def executions(self) -> list[dict[str, Any]]:
        with self.client("stepfunctions") as machine:
            found: list[dict[str, Any]] = machine.list_executions(stateMachineArn=self.at["state_machine_arn"])[
                "executions"
            ]
        return found


@contextmanager
def serving(folder: Path, **more: str) -> Iterator[Served]:
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.local", "serve"],
            cwd=REPOSITORY,
            env=environment(**more),
            stdout=stdout,
            stderr=stderr,
        )
    try:
        yield Served(process, out, err)
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestServe:
    def test_with_another_stripe_and_a_chosen_port(self, tmp_path: Path) -> None:
        account, port = StripeAccount(), free_port()
        with (
            StripeServer(account) as stripe,
            serving(tmp_path, STRIPE_API_BASE=stripe.url, PORT=str(port)) as served,
        ):
            assert served.at.keys() == ADDRESSES
            assert served.at["api"] == f"http://127.0.0.1:{port}"
            assert served.at["stripe_api"] == stripe.url
            assert served.at["webhook_secret"].startswith("whsec_")
            assert account.all("webhook_endpoint") == []  # a stranger's Stripe is left as it is

            api = account.create_product("API")
            price = account.create_price(api["id"], 500, recurring={"interval": "month"}, metadata={"dapps": "2"})
            session = account.checkout("bo@example.com", price["id"], 3)
            webhook, secret = f"{served.at['api']}/create", served.at["webhook_secret"]
            bodies = {event["type"]: json.dumps(event).encode() for event in account.events}
            assert send(webhook, "whsec_wrong", bodies["checkout.session.completed"], 60) == 400
            assert served.executions() == []
            assert {send(webhook, secret, body, 60) for body in bodies.values()} == {200}
            user = served.user("bo@example.com")
            assert user["custom:num_dapps"] == "6"
            assert user["custom:stripe_customer_id"] == session["customer"]
            event_id = next(e["id"] for e in account.events if e["type"] == "checkout.session.completed")
            with served.client("dynamodb") as dynamodb:
                key = {"pk": {"S": f"ORDER#{event_id}"}, "sk": {"S": "ORDER"}}
                order = dynamodb.get_item(TableName=served.at["orders_table"], Key=key)["Item"]
            assert order["order_id"] == {"S": session["id"]}
            assert account.requests

            assert served.end(signal.SIGTERM) == 0
            assert served.all_of_stdout() == served.line
            assert served.line.count("\n") == 1

    def test_with_the_stand_in(self, tmp_path: Path) -> None:
        with serving(tmp_path) as served:
            assert served.at.keys() == ADDRESSES
            until(lambda: "/_standin/checkout" in served.said())

            def standin(action: str, **arguments: Any) -> Any:
                answer = requests.post(f"{served.at['stripe_api']}/_standin/{action}", json=arguments, timeout=60)
                answer.raise_for_status()
                return answer.json()

            # With Stripe down nothing can be decided; once it is back, the schedule brings it right.
            standin("outage")
            command = re.search(r"curl -d '(.+)' (\S+/_standin/checkout)", served.said())
            assert command
            bought = requests.post(command[2], data=command[1], timeout=60)
            assert bought.status_code == 200
            assert standin("wait_delivered", timeout=60)
            first = {run["name"] for run in served.executions() if "-r" not in run["name"]}
            until(lambda: {run["name"] for run in served.executions() if run["status"] == "FAILED"} >= first)
            standin("restore")
            user = served.user("buyer@example.com")
            assert user["custom:num_dapps"] == "3"
            healed = until(lambda: {run["name"] for run in served.executions() if run["status"] == "SUCCEEDED"})
            assert first
            assert healed.isdisjoint(first)

            mail = until(lambda: re.search(r"Mail to buyer@example.com: temporary password (\S+)", served.said()))
            with served.client("cognito-idp") as cognito:
                answer = cognito.initiate_auth(
                    ClientId=served.at["user_pool_client_id"],
                    AuthFlow="USER_PASSWORD_AUTH",
                    AuthParameters={"USERNAME": "buyer@example.com", "PASSWORD": mail[1]},
                )
            assert answer["ChallengeName"] == "NEW_PASSWORD_REQUIRED"

            assert served.end(signal.SIGINT) == 0
            assert served.all_of_stdout() == served.line
            assert "Traceback" not in served.said()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("PORT", "http"), ("PORT", "65536"), ("PORT", "-1"), ("STRIPE_API_BASE", "localhost:12111")],
    )
    def test_a_setting_that_cannot_be_is_one_clear_line(self, name: str, value: str) -> None:
        done = python("-m", "tests.local", "serve", **{name: value})
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert name in line
        assert repr(value) in line

    def test_a_port_in_use_is_one_clear_line(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = str(other.getsockname()[1])
            done = python("-m", "tests.local", "serve", PORT=port)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"PORT {port} cannot be used: .+\n", done.stderr)

    def test_an_address_of_another_machine_is_one_clear_line(self) -> None:
        done = python("-m", "tests.local", "serve", BIND_ADDRESS="192.0.2.1")
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"BIND_ADDRESS 192\.0\.2\.1 cannot be used: .+\n", done.stderr)

    def test_anothers_aws_profile_and_proxy_change_nothing(self, tmp_path: Path) -> None:
        nowhere = "http://127.0.0.1:9"
        foreign = {"AWS_PROFILE": "nobody", "AWS_ENDPOINT_URL": nowhere, "HTTP_PROXY": nowhere, "http_proxy": nowhere}
        with serving(tmp_path, **foreign) as served:
            order = {"email": "cy@example.com", "price": "price_dapp"}
            with requests.Session() as direct:
                direct.trust_env = False
                direct.post(f"{served.at['stripe_api']}/_standin/checkout", json=order, timeout=60)
            assert served.user("cy@example.com")["custom:num_dapps"] == "1"
