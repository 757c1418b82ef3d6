"""Compares a table of the configuration with the Struct that describes it, and reports every difference.

msgspec stops at the first fault; here each setting is checked by itself, against the types and ranges that
`msgspec.inspect` tells of the Struct, and those that pass are kept, so that one fault hides no other.
A fault never repeats a string's text, which may be a secret.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from penstock.config.lines import Lines
from penstock.config.problems import Path, Problem, dotted, nearest

S = TypeVar("S", bound=msgspec.Struct)

_BAD: Final = object()
_LONGEST_INT = 2**63  # MessagePack, by which the configuration travels to the workers, takes no more


class Faults:
    """Collects problems; `lines` gives them their line, and without it they have none."""

    def __init__(self, lines: Lines | None = None) -> None:
        self._lines = lines
        self.found: list[Problem] = []
        self.warnings: list[Problem] = []
        self._paths: set[Path] = set()

    def add(self, path: Path, message: str, fix: str) -> None:
        self.found.append(self._problem(path, message, fix))
        self._paths.add(path)

    def warn(self, path: Path, message: str, fix: str) -> None:
        self.warnings.append(self._problem(path, message, fix))

    def has(self, path: Path) -> bool:
        """Whether `path`, or something in it, is at fault already."""
        return any(known[: len(path)] == path for known in self._paths)

    def _problem(self, path: Path, message: str, fix: str) -> Problem:
        return Problem(dotted(path), self._lines.of(path) if self._lines else None, message, fix)


def keep(struct: type[msgspec.Struct], table: Any, path: Path, faults: Faults) -> dict[str, Any]:
    """The settings of `table` that fit `struct`; the others, unknown and missing ones go to `faults`."""
    if not isinstance(table, dict):
        faults.add(path, f"expected a table; got {_got(table)}", f"write [{dotted(path)}] and its settings below it")
        return {}
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return _table(described, table, path, faults)


def unknown(names: Iterable[str], known: Iterable[str], path: Path, faults: Faults) -> None:
    """Report settings that do not exist."""
    known = list(known)
    for name in names:
        faults.add((*path, name), "unknown setting", nearest(name, known, "remove it; the settings here are"))


def build(struct: type[S], kept: dict[str, Any], path: Path, faults: Faults) -> S | None:
    """The Struct of what `keep` kept; None, and a fault, where something is missing or only msgspec can object."""
    try:
        return msgspec.convert(kept, struct)
    except msgspec.ValidationError as error:
        if not faults.has(path):
            faults.add(
                path,
                str(error).partition(" - at")[0].replace("`", "").lower(),
                "write what docs/configuration.md says of it",
            )
        return None


def _table(struct: inspect.StructType, table: dict[str, Any], path: Path, faults: Faults) -> dict[str, Any]:
    fields = {field.encode_name: field for field in struct.fields}
    unknown((name for name in table if name not in fields), fields, path, faults)
    kept = {}
    for name, field in fields.items():
        if name in table:
            value = _value(field.type, table[name], (*path, name), faults, _otherwise(field))
            if value is not _BAD:
                kept[name] = value
        elif field.required:
            faults.add((*path, name), "missing", f"set {name} to {_expected(field.type)}")
    return kept


def _value(kind: inspect.Type, raw: Any, path: Path, faults: Faults, otherwise: str) -> Any:
    """`raw` if it is of `kind`, less what is at fault within it; else _BAD."""
    kind = _choose(kind, raw)
    if isinstance(kind, inspect.StructType) and isinstance(raw, dict):
        return _table(kind, raw, path, faults)
    if isinstance(kind, inspect.DictType) and isinstance(raw, dict):
        items = {name: _value(kind.value_type, item, (*path, name), faults, "") for name, item in raw.items()}
        return {name: item for name, item in items.items() if item is not _BAD}
    if isinstance(kind, inspect.VarTupleType | inspect.ListType) and isinstance(raw, list):
        elements = [_value(kind.item_type, item, (*path, i), faults, "") for i, item in enumerate(raw)]
        return [item for item in elements if item is not _BAD]
    if _fits(kind, raw):
        return raw
    expected = _expected(kind)
    if isinstance(kind, inspect.LiteralType) and isinstance(raw, str):
        faults.add(path, "no such value", f"write {expected}")
        return _BAD
    faults.add(path, f"expected {expected}; got {_got(raw)}", f"write {expected}{otherwise}")
    return _BAD


def _choose(kind: inspect.Type, raw: Any) -> inspect.Type:
    """Of a union, the member that `raw` is nearest to."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
    fitting = [member for member in members if _fits(member, raw)]
    return fitting[0] if fitting else members[0] if len(members) == 1 else kind


def _fits(kind: inspect.Type, raw: Any) -> bool:
    match kind:
        case inspect.BoolType():
            return isinstance(raw, bool)
        case inspect.IntType():
            return type(raw) is int and -_LONGEST_INT <= raw < _LONGEST_INT and _in_range(kind, raw)
        case inspect.FloatType():
            return type(raw) in (int, float) and abs(raw) < math.inf and _in_range(kind, raw)
        case inspect.StrType():
            return isinstance(raw, str)
        case inspect.LiteralType():
            return raw in kind.values
        case inspect.StructType() | inspect.DictType():
            return isinstance(raw, dict)
        case inspect.VarTupleType() | inspect.ListType():
            return isinstance(raw, list)
        case inspect.UnionType():
            return any(_fits(member, raw) for member in kind.types)
        case inspect.NoneType():
            return False  # TOML has no null
    return True  # what only msgspec knows, `build` asks it


def _in_range(kind: inspect.IntType | inspect.FloatType, raw: float) -> bool:
    return (
        (kind.ge is None or raw >= kind.ge)
        and (kind.gt is None or raw > kind.gt)
        and (kind.le is None or raw <= kind.le)
        and (kind.lt is None or raw < kind.lt)
    )


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _range(kind)
        case inspect.FloatType():
            return "a number" + _range(kind)
        case inspect.StrType():
            return "a string"
        case inspect.LiteralType():
            *others, last = (f'"{value}"' for value in kind.values)
            return f"{', '.join(others)} or {last}" if others else last
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case inspect.VarTupleType() | inspect.ListType():
            return "an array"
        case inspect.UnionType():
            members = (member for member in kind.types if not isinstance(member, inspect.NoneType))
            return " or ".join(dict.fromkeys(_expected(member) for member in members))
    return "another value"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_number(kind.ge)} to {_number(kind.le)}"
    bounds = (("at least", kind.ge), ("above", kind.gt), ("at most", kind.le), ("below", kind.lt))
    said = [f"{word} {_number(bound)}" for word, bound in bounds if bound is not None]
    return f" {', '.join(said)}" if said else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _got(raw: Any) -> str:
    match raw:
        case bool():
            return "true" if raw else "false"
        case int() if abs(raw) < _LONGEST_INT:
            return str(raw)
        case int():
            return "a number of more than 63 bits"
        case float():
            return str(raw)
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "a table"
    return "a date or time"


def _otherwise(field: inspect.Field) -> str:
    """How a fix names the default."""
    default = field.default
    if isinstance(default, bool):
        return f", or leave it out, which means {str(default).lower()}"
    if isinstance(default, int | float):
        return f", or leave it out, which means {_number(default)}"
    return ""
