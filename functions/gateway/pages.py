"""The orders of an account: a page at a time, and those that name somebody."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import RequestInvalid
from gateway.ledger import Ledger, Party

PAGE = 100  # orders

# A run that knew nothing of a deletion may have closed an order of this many seconds after it.
BURIAL = 60

_NEXT = re.compile(r"([A-Za-z0-9_.-]{1,200})\|((?:OPEN|DONE)#\d{1,15}#[A-Za-z0-9_]{1,70})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    """Orders as the ledger keeps them, and what to ask for next; None: this is the last page."""

    orders: list[dict[str, Any]]
    next: str | None


def page_of(parties: Iterable[str], ledger: Ledger, after: str | None, *, fulfilled: bool) -> Page:
    """By party, the latest order first. `after` is the `next` of the page before; RequestInvalid when it is not."""
    names = sorted(parties)
    before = None
    if after is not None:
        found = _NEXT.fullmatch(after)
        if found is None or found[1] not in names or (found[2] < "OPEN#" and not fulfilled):
            raise RequestInvalid("next is not what a page of this address ended with")
        names, before = names[names.index(found[1]) :], found[2]
    ranks: list[tuple[str, str]] = []
    for name in names:
        if len(ranks) > PAGE:
            break
        left = PAGE + 1 - len(ranks)
        ranks += [(name, rank) for rank in ledger.orders(name, fulfilled=fulfilled, before=before, limit=left)]
        before = None
    shown = ranks[:PAGE]
    events = [rank.rpartition("#")[2] for _, rank in shown]
    rows: Mapping[str, dict[str, Any]] = {row["event_id"]: row for row in ledger.rows(events)}
    return Page(
        [rows[event_id] for event_id in events if event_id in rows],
        "|".join(shown[-1]) if len(ranks) > PAGE else None,
    )


def personal_orders(party: Party, ledger: Ledger, deleted_at: int) -> list[str]:
    """Event ids of the party's orders that say something of a person, recorded before the deletion or while it buried
    the account. What comes later is erased when it is closed, unless it is of somebody who bought again."""
    until = deleted_at + BURIAL
    return [
        row["event_id"]
        for row in ledger.rows(list(ledger.all_orders(party.id)))
        if int(row["received_at"]) <= until and any(row.get(name) for name in ("email", "name", "metadata"))
    ]
