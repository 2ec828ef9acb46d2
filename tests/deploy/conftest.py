"""The real `sam build` and `sam deploy` of the template, against an AWS on this machine: MiniStack, in a process of its
own. It obeys the roles' policies (AUTH), so what a function may not do fails here as well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.build import ARCHITECTURE, build
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_http import StripeServer

Json = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
REGION = "us-east-1"
API_KEY, SECRET_KEY = "rk_test_deployed", "sk_test_deployed"
PRICE = "price_of_dapps"

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
"""MiniStack's root user, as whom the stacks are deployed."""


def until(holds: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait for something that nothing announces; returns what it became."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


class Cloud:
    """MiniStack on a free port of 127.0.0.1, until the end of the block."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "ministack.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # Nothing else of this process: the functions inherit what MiniStack has.
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "NO_PROXY": "127.0.0.1,localhost",
            "AUTH": "true",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",
            "LAMBDA_EXECUTOR": "local",
            "SFN_WAIT_SCALE": "0",
        }
        python = REPOSITORY / ".venv-deploy" / "bin" / "python"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", "tests.deploy.ministack_fixes"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._ready)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/_ministack/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)  # the functions' processes too
        self._process.wait()

    def store_key(self, stack: str, key: str) -> None:
        """Store the Stripe key of a stack, as whoever deploys one does first."""
        self.client("secretsmanager").create_secret(Name=f"{stack}/stripe-api-key", SecretString=key)

    def client(self, service: str) -> Any:
        """An AWS client of the root user."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"mode": "standard"}),
        )


class Project:
    """A copy of the sources, which a test may change, and what a person does in its folder."""

    def __init__(self, folder: Path, cloud: Cloud) -> None:
        self.folder = folder
        self._cloud = cloud

    def copy(self, folder: Path) -> Self:
        """Another folder with the same sources, built or not."""
        shutil.copytree(self.folder, folder)
        return type(self)(folder, self._cloud)

    def sam(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the SAM CLI here, against the cloud."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._cloud.log.parent),
            "NO_PROXY": "127.0.0.1",
            "SAM_CLI_TELEMETRY": "0",
            "AWS_ENDPOINT_URL": self._cloud.url,
            **CREDENTIALS,
        }
        return subprocess.run(
            ["sam", *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def change(self, file: str, text: str, by: str) -> None:
        """Replace what a source says at one place."""
        source = self.folder / file
        before = source.read_text(encoding="utf-8")
        assert before.count(text) == 1
        source.write_text(before.replace(text, by), encoding="utf-8")

    def build(self) -> None:
        """`sam build` once more, after a change."""
        done = self.sam("build", "--parameter-overrides", f"Architecture={ARCHITECTURE}")
        assert done.returncode == 0, done.stdout

    def deploy(self, *options: str, **parameters: str) -> subprocess.CompletedProcess[str]:
        """`sam deploy`, as samconfig.toml says."""
        values = {"Architecture": ARCHITECTURE, **parameters}
        overrides = (f"{name}={text}" for name, text in values.items())
        return self.sam("deploy", *options, "--parameter-overrides", *overrides)


class Stack:
    """A deployed stack, as its operator sees it."""

    def __init__(self, name: str, cloud: Cloud) -> None:
        self.name = name
        self._cloud = cloud
        self._cloudformation = cloud.client("cloudformation")

    @property
    def status(self) -> str:
        (found,) = self._cloudformation.describe_stacks(StackName=self.name)["Stacks"]
        return str(found["StackStatus"])

    @property
    def outputs(self) -> dict[str, str]:
        (found,) = self._cloudformation.describe_stacks(StackName=self.name)["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in found["Outputs"]}

    @property
    def resources(self) -> dict[str, Json]:
        """Logical id -> type, physical id and status."""
        pages = self._cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return {each["LogicalResourceId"]: each for page in pages for each in page["StackResourceSummaries"]}

    def events(self) -> list[Json]:
        """What CloudFormation did, oldest first; of a deleted stack, by its id."""
        pages = self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=self.name)
        return [each for page in pages for each in page["StackEvents"]][::-1]

    @property
    def reasons(self) -> dict[str, str]:
        """Logical id -> why it failed."""
        return {
            each["LogicalResourceId"]: each["ResourceStatusReason"]
            for each in self.events()
            if each["ResourceStatus"].endswith("_FAILED")
        }

    @property
    def signing_secrets(self) -> dict[str, str]:
        """Webhook endpoint -> the signing secret that the stack has for it."""
        secret = self.resources["StripeWebhookSecret"]["PhysicalResourceId"]
        text = self._cloud.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"]
        return dict(line.split() for line in text.splitlines())

    def invoke(self, function: str) -> Json:
        """`aws lambda invoke`"""
        name = self.resources[function]["PhysicalResourceId"]
        answer = self._cloud.client("lambda").invoke(FunctionName=name)
        assert "FunctionError" not in answer, answer["Payload"].read()
        found: Json = json.loads(answer["Payload"].read())
        return found

    def post(self, path: str, body: bytes, **headers: str) -> requests.Response:
        """A request to the deployed API."""
        api = self.resources["Api"]["PhysicalResourceId"]
        address = f"{self._cloud.url}/_aws/execute-api/{api}/$default{path}"
        return requests.post(address, data=body, headers={"content-type": "application/json", **headers}, timeout=60)

    def signed(self, path: str, body: bytes) -> requests.Response:
        """The same, signed with SigV4 as an operator does."""
        api = self.resources["Api"]["PhysicalResourceId"]
        host = f"{api}.execute-api.localhost:{self._cloud.url.rpartition(':')[2]}"
        request = AWSRequest("POST", f"http://{host}{path}", {"content-type": "application/json"}, body)
        SigV4Auth(Credentials("test", "test"), "execute-api", REGION).add_auth(request)
        headers = {**request.headers, "Host": host}
        return requests.post(f"{self._cloud.url}{path}", data=body, headers=headers, timeout=60)

    def rows(self) -> list[Json]:
        """The ledger."""
        scanned: list[Json] = self._cloud.client("dynamodb").scan(TableName=self.outputs["OrdersTable"])["Items"]
        return scanned

    def user(self, email: str) -> Json | None:
        """The Cognito user with this address: their attributes, and whether they are enabled."""
        listed = self._cloud.client("cognito-idp").list_users(
            UserPoolId=self.outputs["UserPoolId"], Filter=f'email = "{email}"'
        )
        return next(
            (
                {"enabled": user["Enabled"]} | {each["Name"]: each["Value"] for each in user["Attributes"]}
                for user in listed["Users"]
            ),
            None,
        )


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("cloud")) as opened:
        yield opened


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, cloud: Cloud) -> Project:
    """The sources as they are, built."""
    folder = tmp_path_factory.mktemp("project")
    build(folder)
    return Project(folder, cloud)


@contextmanager
def stripe_account(*, dapps: str | None) -> Iterator[tuple[StripeAccount, str]]:
    """A stand-in for Stripe with one price, which is mapped to this many dapps, and its API's address."""
    account = StripeAccount(keys={API_KEY, SECRET_KEY})
    account.auto_deliver = False
    product = account.create_product("API")
    metadata = {} if dapps is None else {"dapps": dapps}
    account.create_price(product["id"], 500, recurring={"interval": "month"}, metadata=metadata, price_id=PRICE)
    with StripeServer(account) as server:
        yield account, server.url


@pytest.fixture(scope="session")
def stripe() -> Iterator[tuple[StripeAccount, str]]:
    """An account that sells dapps."""
    with stripe_account(dapps="1") as opened:
        yield opened


@pytest.fixture(scope="session")
def account(stripe: tuple[StripeAccount, str]) -> StripeAccount:
    return stripe[0]


@pytest.fixture(scope="session")
def stripe_api(stripe: tuple[StripeAccount, str]) -> str:
    return stripe[1]
