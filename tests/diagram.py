"""`python -m tests.diagram`: draws the state machine into README.md, as Mermaid, from the definition itself."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
DEFINITION = REPOSITORY / "statemachine" / "fulfillment.asl.json"
MARKS = ("<!-- diagram: make diagram -->\n", "<!-- /diagram -->\n")


def lines(definition: dict[str, Any]) -> Iterator[str]:
    """The machine as a Mermaid state diagram; what every task does when it fails is drawn once."""
    yield "stateDiagram-v2"
    yield f"    [*] --> {definition['StartAt']}"
    for name, state in definition["States"].items():
        match state["Type"]:
            case "Choice":
                for rule in state["Choices"]:
                    yield f"    {name} --> {rule['Next']}: {_label(rule['Comment'])}"
                yield f"    {name} --> {state['Default']}: Nothing is missing"
            case "Task":
                yield f"    {name} --> {state['Next']}"
            case _:
                yield f"    {name} --> [*]"
    failing = [name for name, state in definition["States"].items() if state.get("Catch")]
    handlers = {catch["Next"] for name in failing for catch in definition["States"][name]["Catch"]}
    for handler in sorted(handlers):
        caught = [name for name in failing if definition["States"][name]["Catch"][0]["Next"] == handler]
        yield f"    note right of {handler}: when {_among(caught, definition)} fails for good"


def drawn(readme: str, definition: dict[str, Any]) -> str:
    """The README with today's diagram."""
    first, last = (re.escape(mark) for mark in MARKS)
    diagram = "\n".join(lines(definition))
    return re.sub(
        f"(?s){first}.*{last}", lambda _: f"{MARKS[0]}```mermaid\n{diagram}\n```\n{MARKS[1]}", readme, count=1
    )


def _among(names: list[str], definition: dict[str, Any]) -> str:
    tasks = [name for name, state in definition["States"].items() if state["Type"] == "Task"]
    return "any other task" if len(names) == len(tasks) - 1 else " or ".join(names)


def _label(comment: str) -> str:
    """Mermaid ends a label at a semicolon and trips over a second colon."""
    return comment.rstrip(".").replace(":", " -").replace(";", ",")


def main() -> None:
    README.write_text(
        drawn(README.read_text(encoding="utf-8"), json.loads(DEFINITION.read_text(encoding="utf-8"))), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
