"""Structured logs and metrics. Logs name events, orders, executions and users by id, never by e-mail or name."""

from aws_lambda_powertools import Logger, Metrics

logger = Logger()
metrics = Metrics()
