"""What the calls about a user's dapps share: patience with whoever writes to the same person, and how it stands."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.errors import LedgerThrottled
from gateway.ledger import Ledger, Person

# Of those who write to the same person at the same time one always gets through. The user waits meanwhile.
PATIENCE, FIRST_WAIT, LONGEST_WAIT = 5.0, 0.02, 0.5  # seconds

_Result = TypeVar("_Result")


def patiently(write: Callable[[], _Result]) -> _Result:
    """Write, again and again as long as others are writing to the same person; LedgerThrottled when that takes too
    long."""
    wait, until = FIRST_WAIT, time.monotonic() + PATIENCE
    while True:
        try:
            return write()
        except LedgerThrottled:
            if time.monotonic() >= until:
                raise
        time.sleep(random.uniform(0, wait))  # noqa: S311 - jitter, no secret
        wait = min(2 * wait, LONGEST_WAIT)


def person_of(sub: str, ledger: Ledger) -> Person:
    """The person; an unknown one has nothing."""
    return ledger.person(sub) or Person(sub, frozenset())


def standing(person: Person) -> dict[str, Any]:
    """How many dapps are used, of how many."""
    return {"used": person.used, "limit": person.live.dapp_limit}
