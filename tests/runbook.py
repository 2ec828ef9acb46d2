"""The README's Runbook: a paragraph for each alarm, and its commands as AWS's service models read them."""

import fnmatch
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.model import ListShape, Shape, StructureShape

from tests.diagram import README

Json = dict[str, Any]

PARTS = ("See", "Understand", "Mend", "Verify")
# Options that the AWS CLI keeps for itself.
_OF_THE_CLI = {"--output", "--query", "--max-items"}

_session = botocore.session.Session()


@dataclass(frozen=True, slots=True)
class Command:
    """A call of an AWS service."""

    service: str
    operation: str
    parameters: Json
    shape: Shape

    @property
    def method(self) -> str:
        """boto3's name of it."""
        return xform_name(self.operation)


def section(text: str | None = None) -> str:
    """The whole Runbook."""
    found = re.search(r"(?ms)^## Runbook\n(.*?)(?=^## )", text or README.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def paragraphs(text: str | None = None) -> dict[str, str]:
    """Alarm -> its paragraph, its lines joined."""
    return dict(_paragraphs(section(text)))


def _paragraphs(text: str) -> Iterator[tuple[str, str]]:
    for paragraph in text.split("\n\n"):
        if named := re.match(r"\*\*`(\w+Alarm)`\*\*", paragraph):
            yield named[1], " ".join(paragraph.split())


def parts(paragraph: str) -> dict[str, str]:
    """What a paragraph says after each of See, Understand, Mend and Verify."""
    words = re.split(r"\*([A-Z][a-z]+(?:, [a-z]+)*):\*", paragraph)
    said = zip(words[1::2], words[2::2], strict=True)
    return {each.capitalize(): text for named, text in said for each in named.split(", ")}


def resolved(text: str | None = None) -> dict[str, dict[str, str]]:
    """Alarm -> what its paragraph says in each part, with what it refers to by "as `XAlarm`"."""
    of_alarm = {alarm: parts(each) for alarm, each in paragraphs(text).items()}

    def whole(part: str, said: str) -> str:
        return " ".join([said, *(whole(part, of_alarm[each][part]) for each in re.findall(r"\bas `(\w+Alarm)`", said))])

    return {alarm: {part: whole(part, each) for part, each in said.items()} for alarm, said in of_alarm.items()}


def steps(text: str) -> list[str]:
    """What may be something to do, in order: what stands between backticks, and Stripe's button *Resend*."""
    return [code or button for code, button in re.findall(r"`([^`]+)`|\*(Resend)\*", text)]


def in_code(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def in_blocks(text: str | None = None) -> list[str]:
    """The commands of the console blocks; a backslash at the end of a line goes on in the next."""
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```", section(text))
    commands = [command for block in blocks for command in re.split(r"(?m)^\$ ", block) if command.strip()]
    return [re.sub(r"\\\n\s*", "", command).strip() for command in commands]


def functions(text: str | None = None) -> dict[str, str]:
    """The shell functions that the Runbook defines: name -> the command in it."""
    found = (re.fullmatch(r"(\w+)\(\) \{ (.*); \}", command, re.DOTALL) for command in in_blocks(text))
    return {each[1]: each[2] for each in found if each is not None}


def commands(text: str | None = None) -> list[str]:
    """Every call of the AWS CLI in the Runbook."""
    inline = in_code(re.sub(r"(?ms)^```.*?^```", "", section(text)))
    return [each for each in [*inline, *in_blocks(text), *functions(text).values()] if each.startswith("aws ")]


def _some_value(name: str) -> str:
    """As long as an ARN has to be."""
    return f"{name}-{'x' * 40}"


def parsed(command: str, value: Callable[[str], str] = _some_value) -> Command:
    """A command of the AWS CLI; `value` says what stands for <…>, $NAME and $(output …)."""
    command = re.sub(r"\$\(output ([^)]+)\)", lambda found: value(found[1]), command)
    command = re.sub(r"<([^<>]+)>", lambda found: shlex.quote(value(found[1])), command)
    command = re.sub(r"\$(\w+)", lambda found: value(found[1]), command)
    _, service, operation, *words = shlex.split(command.partition(" > ")[0])
    model = _session.get_service_model(service)
    (name,) = (each for each in model.operation_names if xform_name(each, "-") == operation)
    shape = model.operation_model(name).input_shape
    assert isinstance(shape, StructureShape)
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = []
        elif options:
            options[next(reversed(options))].append(word)
    if service == "lambda":  # the file that the answer goes to
        next(reversed(options.values())).remove("/dev/stdout")
    members = {f"--{xform_name(member, '-')}": member for member in shape.members}
    members |= {f"--no-{xform_name(member, '-')}": member for member in shape.members}
    parameters = {
        members[option]: _value(shape.members[members[option]], given, yes=not option.startswith("--no-"))
        for option, given in options.items()
        if option not in _OF_THE_CLI
    }
    return Command(service, name, parameters, shape)


def _value(shape: Shape, words: list[str], *, yes: bool) -> Any:
    if shape.type_name == "boolean" and not words:
        return yes
    if isinstance(shape, ListShape) and words[0].startswith("file://"):
        return []  # what is in the file nobody knows here
    if isinstance(shape, ListShape) and not words[0].startswith("["):
        return [_value(shape.member, [word], yes=True) for word in words]
    (word,) = words
    match shape.type_name:
        case "integer" | "long":
            return int(word)
        case "boolean":
            return {"true": True, "false": False}[word]
        case "structure" if not word.startswith("{"):
            assert isinstance(shape, StructureShape)
            pairs = dict(pair.split("=", 1) for pair in word.split(","))
            return {name: _value(shape.members[name], [text], yes=True) for name, text in pairs.items()}
        case "structure" | "map" | "list":
            return json.loads(word)
    return word


def matches(pattern: str, line: Json) -> bool:
    """Whether CloudWatch Logs' filter finds a line of JSON: terms, all of them (? before each: any), or a condition on
    fields."""
    if condition := re.fullmatch(r"\{ (.*) \}", pattern):
        either = " || " in condition[1]
        tests = [_holds(test, line) for test in re.split(r" (?:&&|\|\|) ", condition[1])]
        return any(tests) if either else all(tests)
    text, terms = json.dumps(line, ensure_ascii=False), shlex.split(pattern)
    if terms[0].startswith("?"):
        return any(term.removeprefix("?") in text for term in terms)
    return all(term in text for term in terms)


def _holds(test: str, line: Json) -> bool:
    found = re.fullmatch(r'\$\.([\w.]+) = "([^"]*)"', test)
    assert found is not None, test
    value: Any = line
    for name in found[1].split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return isinstance(value, str) and fnmatch.fnmatchcase(value, found[2])
