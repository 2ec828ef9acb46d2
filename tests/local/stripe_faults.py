"""Errors in Stripe's shape, and the outages a test can order."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class ApiError(Exception):
    """An error answer: `{"error": {"type", "code", "message", "param"}}` with an HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        type_: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": type_, "code": code, "param": param}
        self.body: Json = {"error": {name: value for name, value in error.items() if value}}


def missing(resource: str, id_: str, param: str = "id") -> ApiError:
    """Stripe answers 404 for an unknown id in the path, 400 for one in a parameter."""
    noun = resource.rpartition(".")[2].replace("_", "")
    status = 404 if param == "id" else 400
    return ApiError(status, f"No such {noun}: '{id_}'", "resource_missing", param)


def injected(status: int) -> ApiError:
    """The error a fault answers: what Stripe says with that status."""
    if status == 429:
        return ApiError(429, "Too many requests hit the API too quickly.", "rate_limit")
    if status == 403:
        return ApiError(403, "The provided key does not have the required permissions.")
    if status >= 500:
        return ApiError(status, "An unknown error occurred.", type_="api_error")
    return ApiError(status, "The request was refused by an ordered fault.")


@dataclass
class Rule:
    remaining: int
    path_contains: str
    status: int | None = None
    seconds: float = 0.0


class Faults:
    """What is broken right now. Every method may be called while requests are being served."""

    def __init__(self, keys: set[str] | None) -> None:
        self._lock = threading.Lock()
        self._keys = keys
        self._out = False
        self._rules: list[Rule] = []
        self._closing = threading.Event()

    def outage(self) -> None:
        """Every API call answers 500 until `restore`."""
        with self._lock:
            self._out = True

    def restore(self) -> None:
        """End the outage and forget every fault still ordered."""
        with self._lock:
            self._out = False
            self._rules.clear()

    def fail_next(self, n: int, status: int, path_contains: str = "") -> None:
        """The next `n` calls whose path contains the text answer `status` and do nothing."""
        with self._lock:
            self._rules.append(Rule(n, path_contains, status=status))

    def hang_next(self, n: int, seconds: float, path_contains: str = "") -> None:
        """The next `n` calls wait `seconds` and are served then, whether the client waits or not.

        A POST that its client gave up on has therefore happened.
        """
        with self._lock:
            self._rules.append(Rule(n, path_contains, seconds=seconds))

    def accept_keys(self, keys: set[str] | None) -> None:
        """The API keys that are valid from now on; None accepts any."""
        with self._lock:
            self._keys = keys

    def close(self) -> None:
        """Wake every hanging call."""
        self._closing.set()

    def meet(self, key: str, path: str) -> None:
        """Called at the start of every API call: wait, or raise ApiError, as ordered."""
        with self._lock:
            known = self._keys is None or key in self._keys
            rule = next((r for r in self._rules if r.path_contains in path), None)
            if rule and not self._out:
                rule.remaining -= 1
                if rule.remaining <= 0:
                    self._rules.remove(rule)
            status = 500 if self._out else rule.status if rule else None
            seconds = rule.seconds if rule and not self._out else 0.0
        if seconds:
            self._closing.wait(seconds)
        if status:
            raise injected(status)
        if not key:
            raise ApiError(401, "You did not provide an API key.")
        if not known:
            raise ApiError(401, f"Invalid API Key provided: {key[:8]}****")
