"""`python -m tests.diagram`: draws the state machines into README.md, as Mermaid, from the definitions themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
MACHINES = REPOSITORY / "statemachine"


def definitions() -> dict[str, dict[str, Any]]:
    """By the name of the machine."""
    paths = sorted(MACHINES.glob("*.asl.json"))
    return {path.name.removesuffix(".asl.json"): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def lines(definition: dict[str, Any]) -> Iterator[str]:
    """The machine as a Mermaid state diagram; what every task does when it fails is drawn once."""
    yield "stateDiagram-v2"
    yield from (f"    {line}" for line in _scope(definition))


def _scope(definition: dict[str, Any]) -> Iterator[str]:
    """One level of states; what a Map does with each item is a state within a state."""
    yield f"[*] --> {definition['StartAt']}"
    for name, state in definition["States"].items():
        match state["Type"]:
            case "Choice":
                for rule in state["Choices"]:
                    yield f"{name} --> {rule['Next']}: {_label(rule['Comment'])}"
                yield f"{name} --> {state['Default']}: {_otherwise(definition['States'][state['Default']])}"
            case "Task" | "Wait":
                yield f"{name} --> {state['Next']}"
            case "Map":
                yield f"state {name} {{"
                yield from (f"    {line}" for line in _scope(state["ItemProcessor"]))
                yield "}"
                yield f"{name} --> {state['Next']}"
            case _:
                yield f"{name} --> [*]"
    failing = [name for name, state in definition["States"].items() if state.get("Catch")]
    handlers = {catch["Next"] for name in failing for catch in definition["States"][name]["Catch"]}
    for handler in sorted(handlers):
        caught = [name for name in failing if definition["States"][name]["Catch"][0]["Next"] == handler]
        yield f"note right of {handler}: when {_among(caught, definition)} fails for good"


def drawn(readme: str, machines: dict[str, dict[str, Any]]) -> str:
    """The README with today's diagrams."""
    for name, definition in machines.items():
        first, last = f"<!-- diagram: {name} -->\n", f"<!-- /diagram: {name} -->\n"
        if first not in readme or last not in readme:
            raise ValueError(f"the README has no place for the diagram of {name}: {first}{last}")
        before, _, rest = readme.partition(first)
        diagram = "\n".join(lines(definition))
        readme = f"{before}{first}```mermaid\n{diagram}\n```\n{last}{rest.partition(last)[2]}"
    return readme


def _among(names: list[str], definition: dict[str, Any]) -> str:
    tasks = [name for name, state in definition["States"].items() if state["Type"] in ("Task", "Map")]
    return "any other task" if len(names) == len(tasks) - 1 else " or ".join(names)


def _otherwise(target: dict[str, Any]) -> str:
    """Why no rule of a choice applied: the state that follows begins by saying it."""
    return _label(target["Comment"].partition(":")[0])


def _label(comment: str) -> str:
    """Mermaid ends a label at a semicolon and trips over a second colon."""
    return comment.rstrip(".").replace(":", " -").replace(";", ",")


def main() -> None:
    README.write_text(drawn(README.read_text(encoding="utf-8"), definitions()), encoding="utf-8")


if __name__ == "__main__":
    main()
