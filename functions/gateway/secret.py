"""A secret in Secrets Manager, fetched once per container and again when it turns out to be stale."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway.errors import SecretUnavailable

# A forged request must not buy a call to Secrets Manager each time.
_REFRESH_SECONDS = 60
_RETRY_SECONDS = 5  # after a failure, when nothing can be checked at all


class Secret:
    """The text behind a secret's ARN. `clock` gives seconds that only ever grow (time.monotonic)."""

    def __init__(self, client: Any, arn: str, clock: Callable[[], float]) -> None:
        self._client = client
        self._arn = arn
        self._clock = clock
        self._text = ""  # not read yet
        self._problem = ""
        self._read_at = clock() - _REFRESH_SECONDS

    def text(self) -> str:
        """The secret as last read; SecretUnavailable when it cannot be."""
        if not self._text:
            if self._problem and self._clock() - self._read_at < _RETRY_SECONDS:
                raise SecretUnavailable(self._problem)
            self._read()
        return self._text

    def latest(self) -> str:
        """The secret as it is now, for who is asked seldom; SecretUnavailable when it cannot be read."""
        self._read()
        return self._text

    def refresh(self) -> bool:
        """Read again, at most once a minute. True when the secret has changed."""
        if self._clock() - self._read_at < _REFRESH_SECONDS:
            return False
        before = self._text
        self._read()
        return self._text != before

    def put(self, text: str) -> None:
        """Store another text; SecretUnavailable when that is refused."""
        try:
            self._client.put_secret_value(SecretId=self._arn, SecretString=text)
        except (ClientError, BotoCoreError) as error:
            raise SecretUnavailable(f"Secrets Manager does not store the secret ({_code(error)})") from None
        self._text = text

    def _read(self) -> None:
        self._read_at = self._clock()
        try:
            text = self._client.get_secret_value(SecretId=self._arn)["SecretString"].strip()
        except (ClientError, BotoCoreError) as error:
            text, self._problem = "", f"Secrets Manager refused the secret ({_code(error)}); does it have a value?"
        except KeyError:
            text, self._problem = "", "the secret is binary; store it as text"
        else:
            self._problem = "the secret is empty; put the value from Stripe's dashboard there"
        if not text:
            raise SecretUnavailable(self._problem)
        self._text = text


def _code(error: ClientError | BotoCoreError) -> str:
    code: str = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
    return code
