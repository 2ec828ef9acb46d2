"""What the README tells a developer to type, typed."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from tests.containers.conftest import BUYER, outcome, sam
from tests.containers.engine import BUILD
from tests.e2e.conftest import REPOSITORY, until
from tests.local.serve import PRICE, TEMPLATE_FOR_SAM

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SERVE, BUILT, INVOKE = (
    re.findall(rf"(?m)^\$ ({command}.*?)(?: +#.*)?$", README)
    for command in ("BIND_ADDRESS=", "sam build --parameter-overrides", "sam local invoke")
)


@pytest.fixture
def served(host: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The first line of the README, in another terminal, with the address of this engine's bridge; what it prints."""
    (line,) = SERVE
    log = tmp_path / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["bash", "-c", line.replace("172.17.0.1", host)],
            cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if "MAKE" not in name},  # another make than ours
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            first = process.stdout.readline()
            assert first, log.read_text(encoding="utf-8")
            yield json.loads(first)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
    assert not TEMPLATE_FOR_SAM.exists()


def test_the_readme_invokes_a_function_of_the_stack_that_it_serves(served: dict[str, Any]) -> None:
    (line,) = INVOKE
    (built,) = BUILT
    assert shlex.split(built) == [*BUILD[:-1], "Architecture=x86_64"]  # which python -m tests.containers has run
    order = {"email": BUYER, "price": PRICE, "quantity": 2}
    requests.post(f"{served['stripe_api']}/_standin/checkout", json=order, timeout=60).raise_for_status()
    cognito = boto3.client(
        "cognito-idp",
        region_name=served["region"],
        endpoint_url=served["aws_endpoint"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    until(lambda: cognito.list_users(UserPoolId=served["user_pool_id"])["Users"], 60)
    done = sam(*shlex.split(line)[1:])
    found = outcome(json.loads(done.stdout), done.stderr)
    assert found.answer["statusCode"] == 200, found
    said = json.loads(found.answer["body"])
    assert said["email"] == BUYER
    assert said["explanation"]["summary"]
