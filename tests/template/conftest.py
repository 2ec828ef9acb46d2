"""The deployed application as data: the state machines, the template as CloudFormation sees it, and the sources.

Each rule is a function of an Application that returns its problems, so that a test can show it an application that is
broken on purpose.
"""

import ast
import copy
import functools
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

REPOSITORY = Path(__file__).parents[2]

# SAM's own service has a list of features under test, and misses it here at every alias.
logging.getLogger("samtranslator.feature_toggle.feature_toggle").setLevel(logging.ERROR)


@dataclass
class Application:
    """What is deployed. `definitions`: name of a machine -> its definition. `sources`: path below functions/ -> Python
    text. `tests`: all test modules, as one text."""

    definitions: dict[str, dict[str, Any]]
    template: dict[str, Any]
    sources: dict[str, str]
    tests: str = field(repr=False, default="")

    @property
    def machines(self) -> list["Machine"]:
        return [Machine(name, self) for name in self.definitions]

    @property
    def handlers(self) -> dict[str, str]:
        """The sources that are Lambda functions: all that lie beside the package."""
        return {path: text for path, text in self.sources.items() if "/" not in path}

    def resources(self, kind: str) -> dict[str, Any]:
        """Logical id -> properties."""
        return {
            name: body.get("Properties", {})
            for name, body in self.template["Resources"].items()
            if body["Type"] == kind
        }

    @property
    def functions(self) -> dict[str, Any]:
        return self.resources("AWS::Lambda::Function")

    def source_of(self, function: str) -> str:
        """The source of a function of the template; empty when there is none."""
        return self.sources.get(f"{self.functions[function]['Handler'].removesuffix('.handler')}.py", "")


@dataclass
class Scope:
    """States that lead to each other alone: those of a machine, or those that a Map of it runs for every item. `name`:
    the machine's, or the Map's. `definition`: the machine's, or the Map's item processor."""

    name: str
    definition: dict[str, Any]

    @property
    def start(self) -> str:
        """The name of the first state; empty when there is none."""
        return str(self.definition.get("StartAt", ""))

    @property
    def states(self) -> dict[str, Any]:
        return dict(self.definition.get("States", {}))

    @property
    def tasks(self) -> dict[str, Any]:
        return _of_type(self.states, "Task")

    @property
    def maps(self) -> dict[str, Any]:
        return _of_type(self.states, "Map")

    @property
    def fallible(self) -> dict[str, Any]:
        """What errors can be caught from."""
        return _of_type(self.states, "Task", "Map")


@dataclass
class Machine:
    """A state machine of an application. `name`: its file's below statemachine/."""

    name: str
    app: Application

    @property
    def definition(self) -> dict[str, Any]:
        return self.app.definitions[self.name]

    @property
    def resource(self) -> str:
        """Its logical id in the template."""
        return f"{self.name.capitalize()}StateMachine"

    @property
    def scopes(self) -> list[Scope]:
        """Its own, and one for each Map."""
        return list(_scopes(self.name, self.definition))

    @property
    def states(self) -> dict[str, Any]:
        """All, those inside a Map included; no two have the same name."""
        return {name: state for scope in self.scopes for name, state in scope.states.items()}

    @property
    def tasks(self) -> dict[str, Any]:
        return _of_type(self.states, "Task")

    def source_of(self, task: str) -> str:
        """The source of a task's function; empty when there is none."""
        return self.app.sources.get(f"{snake(task)}.py", "")


Rule = Callable[[Application], list[str]]
Break = Callable[[Application], object]


def application() -> Application:
    """The application as it is in the repository; the caller may break it."""
    return copy.deepcopy(_APPLICATION)


def broken(by: Break) -> Application:
    """The application with one thing spoilt."""
    spoilt = application()
    by(spoilt)
    return spoilt


@functools.cache
def imports(source: str) -> frozenset[str]:
    """Every module that a source imports, by full name (`from gateway import aws` is gateway.aws too)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return frozenset(found)


def calls(source: str, *functions: str) -> list[str]:
    """The first arguments, as far as they are texts, of all calls of functions or methods with these names."""
    return [argument for function, argument in _calls(source) if function in functions]


@functools.cache
def _calls(source: str) -> tuple[tuple[str, Any], ...]:
    """Every call with arguments: the name of what is called, and the first one."""
    return tuple(
        (
            ast.unparse(node.func).rpartition(".")[2],
            node.args[0].value if isinstance(node.args[0], ast.Constant) else ast.unparse(node.args[0]),
        )
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and node.args
    )


def _of_type(states: dict[str, Any], *types: str) -> dict[str, Any]:
    return {name: state for name, state in states.items() if state["Type"] in types}


def _scopes(name: str, definition: dict[str, Any]) -> Iterator[Scope]:
    scope = Scope(name, definition)
    yield scope
    for each, state in scope.states.items():
        if "ItemProcessor" in state:
            yield from _scopes(each, state["ItemProcessor"])


def snake(name: str) -> str:
    """LookupUser -> lookup_user"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def answered(source: str, function: str = "handler") -> set[str]:
    """The keys of the dictionary that a handler returns, or has a function of its module return; none when the
    source has no such function."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    keys: set[str] = set()
    for node in ast.walk(functions[function]) if function in functions else ():
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
            keys.update(key.value for key in node.value.keys if isinstance(key, ast.Constant))
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
            keys.update(answered(source, ast.unparse(node.value.func)))
    return keys


def translated(change: Callable[[Any], object] = lambda source: None, **parameters: str) -> dict[str, Any]:
    """The template as SAM hands it to CloudFormation; `change` is made to its source before."""
    source = yaml_parse((REPOSITORY / "template.yaml").read_text(encoding="utf-8"))
    for properties in (source["Globals"]["Function"], *(each["Properties"] for each in source["Resources"].values())):
        for name in ("CodeUri", "ContentUri", "DefinitionUri"):
            if name in properties:  # SAM's translator takes what "sam package" leaves
                properties[name] = f"s3://package/{properties[name]}"
    change(source)
    session = boto3.Session(region_name="us-east-1")
    answer = Translator({}, Parser(), boto_session=session).translate(source, parameters)
    return dict(json.loads(json.dumps(answer)))


def _read() -> Application:
    functions = REPOSITORY / "functions"
    machines = sorted((REPOSITORY / "statemachine").glob("*.asl.json"))
    tests = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if path.parent != Path(__file__).parent]
    return Application(
        definitions={
            path.name.removesuffix(".asl.json"): json.loads(path.read_text(encoding="utf-8")) for path in machines
        },
        template=translated(),
        sources={
            path.relative_to(functions).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(functions.rglob("*.py"))
        },
        tests="\n".join(path.read_text(encoding="utf-8") for path in sorted(tests)),
    )


_APPLICATION = _read()
