"""`python -m tests.licences`: writes into the README under which licences what ships is, from its own metadata."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distribution
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
SHIPPED = REPOSITORY / "requirements" / "layer" / "requirements.txt"

# The company that deploys this may use, change and keep to itself what it builds with them. MPL-2.0 binds the files of
# the package alone, which ship unchanged.
ALLOWED = frozenset(("Apache-2.0", "BSD-3-Clause", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"))

# Older metadata, whose texts are no SPDX expressions.
_CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_LOCKED = re.compile(r"(?m)^([a-z0-9-]+)==(\S+)")
_TABLE = re.compile(r"(?s)(<!-- licences -->\n).*(<!-- /licences -->)")


def shipped() -> Iterator[Distribution]:
    """The packages of the layer, as they are installed here."""
    for name, version in _LOCKED.findall(SHIPPED.read_text(encoding="utf-8")):
        found = distribution(name)
        if found.version != version:
            raise ValueError(f"{name} {found.version} is installed here, and {version} ships")
        yield found


def licence(package: Distribution) -> str:
    """The SPDX expression of a package's licence; ValueError when its metadata does not say it."""
    metadata = package.metadata
    said = metadata.get("License-Expression") or metadata.get("License") or ""
    known = [name for each in metadata.get_all("Classifier", []) if (name := _CLASSIFIERS.get(each))]
    if re.fullmatch(r"[A-Za-z0-9.-]+( (OR|AND) [A-Za-z0-9.-]+)*", said):
        return said
    if len(known) != 1:
        raise ValueError(f"{metadata['Name']} does not say under which licence it is")
    return known[0]


def allowed(expression: str) -> bool:
    """Whether one of the alternatives asks for nothing but what is allowed."""
    return any(ALLOWED.issuperset(each.split(" AND ")) for each in expression.split(" OR "))


def texts(package: Distribution) -> list[str]:
    """The licence texts that come with a package, which has to be handed on with them."""
    return [
        str(each) for each in package.files or () if re.search(r"(?i)\.dist-info/.*(licen[cs]e|copying)", str(each))
    ]


def licences() -> dict[str, str]:
    """Name -> licence of what ships."""
    return {each.metadata["Name"]: licence(each) for each in shipped()}


def written(readme: str, found: Mapping[str, str]) -> str:
    """The README with this table in it."""
    rows = sorted((expression, name) for name, expression in found.items())
    grouped = {key: [name for _, name in each] for key, each in groupby(rows, key=lambda row: row[0])}
    lines = ["| Licence | Packages in the layer |", "|---|---|"]
    lines += [f"| {expression} | {', '.join(names)} |" for expression, names in grouped.items()]
    table = "\n".join(lines) + "\n"
    if len(_TABLE.findall(readme)) != 1:
        raise ValueError("the README has no place for the licences")
    return _TABLE.sub(lambda place: place[1] + table + place[2], readme)


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8"), licences()), encoding="utf-8")
