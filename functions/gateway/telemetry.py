"""Structured logs and metrics. Logs name events, orders, executions and users by id, never by e-mail or name."""

import functools
from collections.abc import Callable
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from gateway.errors import GatewayError

logger = Logger()
metrics = Metrics()


def count(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Send what a handler counted, if it counted anything, also when it fails; that a service throttles it, too."""

    @functools.wraps(handler)
    def counted(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        except GatewayError as error:
            count_throttle(error)
            raise
        finally:
            if metrics.metric_set:
                metrics.flush_metrics()

    return counted


def count_throttle(error: GatewayError) -> None:
    """Count an error that says that a service throttles us. `count` does, unless the handler makes an answer of it."""
    if type(error).__name__.endswith("Throttled"):
        metrics.add_metric("Throttled", MetricUnit.Count, 1)
