"""What the template's alarms and its dashboard watch, once their references are resolved."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

# The only kind of sum that alarms use: a metric that is missing is 0.
_SUM = re.compile(r"FILL\(\w+, 0\)(?: \+ FILL\(\w+, 0\))*")
_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {"Sum": sum, "Maximum": max, "SampleCount": len}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of CloudWatch: the same name with other dimensions is another one."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


def of_alarm(alarm: Json) -> dict[str, tuple[Metric, str, int]]:
    """The metrics of an alarm by their ids (of a single one: empty), each with its statistic and period."""
    if "Metrics" not in alarm:
        return {"": (_metric(alarm), alarm["Statistic"], alarm["Period"])}
    stats = {each["Id"]: each["MetricStat"] for each in alarm["Metrics"] if "MetricStat" in each}
    return {name: (_metric(each["Metric"]), each["Stat"], each["Period"]) for name, each in stats.items()}


def summed(alarm: Json) -> list[str]:
    """The ids that an alarm on several metrics adds up."""
    (expression,) = (each["Expression"] for each in alarm["Metrics"] if "Expression" in each)
    assert _SUM.fullmatch(expression), f"not a sum: {expression}"
    return re.findall(r"FILL\((\w+)", expression)


def breaching(alarm: Json, values: Callable[[Metric], Sequence[float]]) -> bool | None:
    """Whether one period with these values is over the alarm's threshold; None: it stays as it was."""
    found = {name: (_STATISTICS[stat], values(metric)) for name, (metric, stat, _) in of_alarm(alarm).items()}
    if not any(numbers for _, numbers in found.values()):
        return {"breaching": True, "notBreaching": False, "ignore": None}[alarm["TreatMissingData"]]
    value = sum(statistic(numbers) for statistic, numbers in found.values() if numbers)
    if alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold":
        return value >= alarm["Threshold"]
    assert alarm["ComparisonOperator"] == "LessThanThreshold"
    return value < alarm["Threshold"]


def of_dashboard(body: Json) -> Iterator[tuple[Metric, str]]:
    """The metrics of a dashboard, each with the statistic that is drawn."""
    for widget in body["widgets"]:
        row: list[str] = []
        for given in widget["properties"].get("metrics", []):
            words = [each for each in given if not isinstance(each, dict)]
            options: Json = next((each for each in given if isinstance(each, dict)), {})
            if words[0] == "...":  # all but what follows is as in the row before
                words = [*row[: len(row) - len(words) + 1], *words[1:]]
            row = [row[place] if word == "." else word for place, word in enumerate(words)]
            dimensions = frozenset(zip(row[2::2], row[3::2], strict=True))
            yield Metric(row[0], row[1], dimensions), options.get("stat", widget["properties"]["stat"])


def alarms_on(body: Json) -> list[str]:
    """The ARNs of the alarms that a dashboard shows."""
    return [arn for widget in body["widgets"] for arn in widget["properties"].get("alarms", [])]


def dashboard(properties: Json) -> Json:
    """The body of a dashboard."""
    found: Json = json.loads(properties["DashboardBody"])
    return found


def _metric(given: Json) -> Metric:
    return Metric(
        given["Namespace"],
        given["MetricName"],
        frozenset((each["Name"], str(each["Value"])) for each in given["Dimensions"]),
    )
