"""Structured logs and metrics. Logs name events, orders, executions and users by id, never by e-mail or name."""

import functools
from collections.abc import Callable
from typing import Any

from aws_lambda_powertools import Logger, Metrics

logger = Logger()
metrics = Metrics()


def count(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Send what a handler counted, if it counted anything, also when it fails."""

    @functools.wraps(handler)
    def counted(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        finally:
            if metrics.metric_set:
                metrics.flush_metrics()

    return counted
