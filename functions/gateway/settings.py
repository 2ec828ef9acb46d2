"""Settings come from the environment and are read once, at import."""

import os
from typing import TypeVar

from gateway.errors import GatewayError

_Choice = TypeVar("_Choice", bound=str)


class SettingMissing(GatewayError):
    """A variable that template.yaml gives is not there, or is not what it should be."""


def required(name: str) -> str:
    """The value of the environment variable; SettingMissing, with its name, when it is unset or empty."""
    value = os.environ.get(name, "")
    if not value:
        raise SettingMissing(f"environment variable {name} is not set")
    return value


def optional(name: str) -> str | None:
    """The value of the environment variable; None when it is unset or empty."""
    return os.environ.get(name) or None


def whole_number(name: str) -> int:
    """Like `required`, as an integer."""
    try:
        return int(required(name))
    except ValueError as error:
        raise SettingMissing(f"environment variable {name} is not a whole number") from error


def one_of(name: str, *choices: _Choice) -> _Choice:
    """Like `required`, one of these words."""
    value = required(name)
    for choice in choices:
        if choice == value:
            return choice
    raise SettingMissing(f"environment variable {name} is none of {', '.join(choices)}")
