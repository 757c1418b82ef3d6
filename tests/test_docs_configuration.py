"""docs/configuration.md tells every setting with its type and its default, and its example can be served."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import inspect

from penstock.config import (
    AnswersConfig,
    Breaker,
    Counting,
    Deadlines,
    Ledger,
    Limits,
    Model,
    Price,
    Retries,
    Server,
    TargetConfig,
    Upstream,
    load,
)
from penstock.providers.registry import SETTINGS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "penstock.toml"

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "`[server]`": Server,
    "`[server.limits]`": Limits,
    "`[providers.NAME]`": Upstream,
    "`[providers.NAME.deadlines]`": Deadlines,
    '`[models."NAME"]`': Model,
    "`targets`": TargetConfig,
    "`[retries]`": Retries,
    "`[breaker]`": Breaker,
    "`[answers]`": AnswersConfig,
    "`[ledger]`": Ledger,
    '`[prices."PROVIDER/MODEL"]`': Price,
    "`[limits]`": Counting,
}
NOT_SETTINGS = ("name", "settings")  # of an Upstream: they come from the table's own name and from its type


class Row(NamedTuple):
    type: str
    default: str


def documented() -> dict[str, dict[str, Row]]:
    """The rows of each section's table of settings."""
    found: dict[str, dict[str, Row]] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if "| setting | type | default | meaning |" in body:
            rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \| \S[^|]* \|$", body, re.MULTILINE)
            assert len(rows) == body.count("\n|") - 2, f"a row of {title} is not understood"
            found[title] = {name: Row(kind, default) for name, kind, default in rows}
    return found


def sections() -> list[tuple[str, type[msgspec.Struct]]]:
    types = [(title, name) for title in documented() for name in SETTINGS if f"`{name}`" in title.partition("Types")[2]]
    return [*SECTIONS.items(), *((title, SETTINGS[name]) for title, name in types)]


def words(kind: inspect.Type) -> str:
    """A type as the page says it."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "whole number"
        case inspect.FloatType():
            return "number"
        case inspect.StrType() | inspect.LiteralType():
            return "string"
        case inspect.StructType():
            return "table"
        case inspect.DictType():
            return f"table of {words(kind.value_type)}s"
        case inspect.VarTupleType():
            return f"array of {words(kind.item_type)}s"
        case inspect.UnionType():
            return " or ".join(words(member) for member in kind.types if not isinstance(member, inspect.NoneType))
    raise AssertionError(f"the page has no word for {kind}")


def default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


@pytest.mark.parametrize(("title", "struct"), sections(), ids=lambda value: str(getattr(value, "__name__", value)))
def test_the_page_has_every_setting_with_its_type_and_default(title: str, struct: type[msgspec.Struct]) -> None:
    rows = documented()[title]
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    hidden = NOT_SETTINGS if struct is Upstream else ()
    kinds = {field.encode_name: words(field.type) for field in described.fields if field.name not in hidden}
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct) if field.name not in hidden}
    assert set(rows) == set(fields)
    for name, row in rows.items():
        assert row.type.partition(",")[0] == kinds[name], name
        value = default(fields[name])
        if isinstance(value, msgspec.Struct):
            assert row.default == "below", name
        elif value is msgspec.NODEFAULT:
            assert row.default == "required", name
        elif value is None:
            assert row.default == "none", name
        else:
            told = tomllib.loads(f"x = {row.default.strip('`')}")["x"]
            assert (tuple(told) if isinstance(told, list) else told) == value, name


def test_every_type_of_provider_has_its_section() -> None:
    titles = [title for title in documented() if title.startswith("Types ")]
    named = [name for title in titles for name in re.findall(r"`([^`]+)`", title)]
    assert sorted(named) == sorted(SETTINGS)


def test_every_table_of_settings_is_one_that_exists() -> None:
    assert set(documented()) == {title for title, _ in sections()}


def test_the_example_on_the_page_is_the_example_file() -> None:
    block = re.search(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert block[1] == EXAMPLE.read_text(encoding="utf-8")


def test_the_example_can_be_served() -> None:
    config = load(EXAMPLE, {"HOME": "/home/ann", "OPENAI_API_KEY": "sk-1"}, SETTINGS)
    assert config.warnings == ()
    assert list(config.models) == ["gpt-5.4", "office-*", "penstock-demo"]
