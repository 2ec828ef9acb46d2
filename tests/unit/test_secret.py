"""gateway.secret: one call per container, one more per minute at most, and never the text in an error."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from moto import mock_aws

from gateway.errors import SecretUnavailable
from gateway.secret import Secret


class Vault:
    """Secrets Manager with a value that may change, or an error instead of it, and a clock beside it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.error: Exception | None = None
        self.now = 1_000.0
        self.calls = 0

    def get_secret_value(self, SecretId: str) -> dict[str, Any]:  # noqa: N803
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {"ARN": SecretId, "SecretString": self.text}


@pytest.fixture
def vault() -> Vault:
    return Vault("first")


@pytest.fixture
def secret(vault: Vault) -> Secret:
    return Secret(vault, "arn:secret", lambda: vault.now)


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "first"}}, "GetSecretValue")


@pytest.fixture
def manager() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("secretsmanager", region_name="us-east-1")


def test_is_read_from_secrets_manager_without_blanks_around_it(manager: Any) -> None:
    arn = manager.create_secret(Name="key", SecretString=" sk_test_1\n")["ARN"]
    assert Secret(manager, arn, lambda: 0.0).text() == "sk_test_1"


def test_that_does_not_exist_is_unavailable(manager: Any) -> None:
    with pytest.raises(SecretUnavailable, match="ResourceNotFoundException"):
        Secret(manager, "no-such-secret", lambda: 0.0).text()


def test_is_read_once(vault: Vault, secret: Secret) -> None:
    assert [secret.text() for _ in range(3)] == ["first"] * 3
    assert vault.calls == 1


def test_that_is_empty_is_unavailable(vault: Vault, secret: Secret) -> None:
    vault.text = " \n"
    with pytest.raises(SecretUnavailable, match="empty"):
        secret.text()


def test_that_is_binary_is_unavailable(manager: Any) -> None:
    arn = manager.create_secret(Name="key", SecretBinary=b"whsec_1")["ARN"]
    with pytest.raises(SecretUnavailable, match="binary"):
        Secret(manager, arn, lambda: 0.0).text()


@pytest.mark.parametrize(("waited", "text", "changed"), [(60.0, "second", True), (60.0, "first", False)])
def test_refresh_says_whether_it_changed(vault: Vault, secret: Secret, waited: float, text: str, changed: bool) -> None:
    secret.text()
    vault.now, vault.text = vault.now + waited, text
    assert secret.refresh() is changed
    assert secret.text() == text


def test_refresh_asks_at_most_once_a_minute(vault: Vault, secret: Secret) -> None:
    secret.text()
    vault.text = "second"
    for _ in range(120):  # one forged request a second
        vault.now += 1
        secret.refresh()
    assert vault.calls == 3


def test_refresh_before_the_first_read_reads(secret: Secret) -> None:
    assert secret.refresh() is True
    assert secret.text() == "first"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (refusal("AccessDeniedException"), "AccessDeniedException"),
        (refusal("ThrottlingException"), "ThrottlingException"),
        (ClientError({}, "GetSecretValue"), "ClientError"),
        (ConnectTimeoutError(endpoint_url="https://secretsmanager"), "ConnectTimeoutError"),
    ],
)
def test_that_cannot_be_read_says_why_and_not_what_it_was(
    vault: Vault, secret: Secret, error: Exception, name: str
) -> None:
    secret.text()
    vault.now, vault.error = vault.now + 60, error
    with pytest.raises(SecretUnavailable, match=rf"\({name}\)") as caught:
        secret.refresh()
    assert "first" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert secret.text() == "first"  # what is known stays


def test_is_tried_again_after_a_failure(vault: Vault, secret: Secret) -> None:
    vault.error = refusal("ThrottlingException")
    with pytest.raises(SecretUnavailable):
        secret.text()
    vault.error = None
    with pytest.raises(SecretUnavailable):
        secret.text()
    assert vault.calls == 1  # at most one call in five seconds
    vault.now += 5
    assert secret.text() == "first"
