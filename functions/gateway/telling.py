"""Tells others how somebody's access has changed since they were told last."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.ledger import Ledger, Person
from gateway.notices import Notices
from gateway.users import Users


@dataclass(frozen=True, slots=True)
class Teller:
    """`with_email`: events name the address. `with_messages`: the older contract's topic is told as well."""

    ledger: Ledger
    users: Users
    notices: Notices
    with_email: bool
    with_messages: bool

    def tell(self, person: Person, after: Mapping[str, Any] | None, now: int, **about: str | None) -> None:
        """Publish how the user's access changed. The caller holds the lease, and has read the user under it.

        A notice is written down before it is published: after a kill the same one is published again, with its id,
        before any other. `after` None: the user is about to be deleted.
        """
        told, tellings = person.told, person.tellings
        if person.telling is not None:
            notice = json.loads(person.telling)
            self._publish(person.sub, notice, tellings + 1)
            told, tellings = notice["after"], tellings + 1
        if told == after:
            return
        notice = {
            "id": f"{person.sub}-{tellings + 1}",
            "sub": person.sub,
            **({"email": self.users.email(person.sub)} if self.with_email else {}),
            "before": told,
            "after": after,
            "at": now,
            **about,
        }
        self.ledger.telling(person.sub, json.dumps(notice))
        self._publish(person.sub, notice, tellings + 1)

    def _publish(self, sub: str, notice: Mapping[str, Any], tellings: int) -> None:
        self.notices.publish(notice)  # first, because its repetitions can be told by their id
        after = notice["after"]
        if self.with_messages:
            status = "CANCELLED" if after is None else after["payment_status"]
            self.notices.message(status, self.users.email(sub))
        self.ledger.told(sub, after, tellings)
