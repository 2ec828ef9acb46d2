"""Webhook delivery: worker threads that sign, send and retry, and can be waited for."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import requests
import stripe


@dataclass(order=True)
class Task:
    """One event on its way to one endpoint; `due` is on the monotonic clock, in seconds."""

    due: float
    order: int
    event_id: str = field(compare=False)
    endpoint_id: str = field(compare=False)
    url: str = field(compare=False)
    secret: str = field(compare=False)
    body: bytes = field(compare=False)
    attempt: int = field(default=1, compare=False)


def send(url: str, secret: str, body: bytes, timeout: float) -> int | None:
    """POST `body` as Stripe does, signed over these very bytes.

    The signature carries the real time, not the account's clock: receivers compare it with theirs.
    Returns the HTTP status, or None when no answer came. Redirects are not followed, as at Stripe.
    """
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret)
    try:
        answer = requests.post(
            url,
            data=body,
            headers={
                "Content-Type": "application/json; charset=utf-8",
                "Stripe-Signature": header,
                "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            },
            timeout=timeout,
            allow_redirects=False,
        )
    except requests.RequestException:
        return None
    return answer.status_code


class Deliveries:
    """The queue and its workers.

    A 2xx ends a delivery. Anything else is retried after backoff, 2*backoff, 4*backoff … seconds
    (Stripe: three days in live mode, three tries in a sandbox) until `attempts` are used up.
    `report(event_id, endpoint_id, delivered)` is called after every attempt, `listens(endpoint_id)` before it:
    an endpoint that does not is sent nothing.
    """

    def __init__(
        self,
        report: Callable[[str, str, bool], None],
        listens: Callable[[str], bool],
        backoff: float = 1.0,
        attempts: int = 6,
        timeout: float = 10.0,
        workers: int = 8,
    ) -> None:
        self.backoff = backoff
        self.attempts = attempts
        self.timeout = timeout
        self._report = report
        self._listens = listens
        self._workers = workers
        self._changed = threading.Condition()
        self._tasks: list[Task] = []
        self._order = itertools.count()
        self._pending = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    def enqueue(self, event_id: str, endpoint_id: str, url: str, secret: str, body: bytes) -> None:
        with self._changed:
            if self._closed:
                return
            task = Task(time.monotonic(), next(self._order), event_id, endpoint_id, url, secret, body)
            heapq.heappush(self._tasks, task)
            self._pending += 1
            if len(self._threads) < self._workers:
                thread = threading.Thread(target=self._work, name="stripe-delivery", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    def wait(self, timeout: float) -> bool:
        """Block until nothing is queued, in flight or waiting for a retry; False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, timeout)

    def close(self) -> None:
        """Drop what is queued and end the workers after the requests in flight."""
        with self._changed:
            self._closed = True
            self._pending -= len(self._tasks)
            self._tasks.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(self.timeout)

    def _next(self) -> Task | None:
        with self._changed:
            while not self._closed:
                if not self._tasks:
                    self._changed.wait()
                elif (wait := self._tasks[0].due - time.monotonic()) > 0:
                    self._changed.wait(wait)
                else:
                    return heapq.heappop(self._tasks)
            return None

    def _work(self) -> None:
        while task := self._next():
            listens = self._listens(task.endpoint_id)
            delivered = False
            if listens:
                status = send(task.url, task.secret, task.body, self.timeout)
                delivered = status is not None and 200 <= status < 300
                self._report(task.event_id, task.endpoint_id, delivered)
            with self._changed:
                if delivered or not listens or self._closed or task.attempt >= self.attempts:
                    self._pending -= 1
                else:
                    task.due = time.monotonic() + self.backoff * 2 ** (task.attempt - 1)
                    task.attempt += 1
                    heapq.heappush(self._tasks, task)
                self._changed.notify_all()
