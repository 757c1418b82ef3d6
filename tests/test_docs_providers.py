"""docs/providers.md shows the rows of services and of models as they are in the code."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.providers import capabilities
from penstock.providers.capabilities import ALL_SAMPLING, SAMPLING, Family, find
from penstock.providers.openai import Dialect
from penstock.providers.registry import COMPATIBLE

PAGE = (Path(__file__).parents[1] / "docs" / "providers.md").read_text(encoding="utf-8")


def table(title: str) -> list[str]:
    """The rows of the first table below a title."""
    section = PAGE.split(f"## {title}\n", 1)[1]
    found = re.search(r"^\|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)*)", section, re.MULTILINE)
    assert found is not None
    return found[1].splitlines()


def service(name: str, row: Dialect) -> str:
    words = [f"`{way}`" if way.startswith("reasoning") else way for way in row.reasoning]
    cells = [f"`{name}`", ", ".join(words) or "not shown", row.usage, row.quirks, f"[page]({row.source})"]
    return re.sub(r"  +", " ", f"| {' | '.join(cells)} |")


def named(names: tuple[str, ...]) -> str:
    if names == ALL_SAMPLING:
        return "all"
    return ", ".join(f"`{name}`" for name in names)


def family(at: str, row: Family) -> str:
    others = ", ".join(f"{name} as {other}" for name, other in (*row.roles, *row.names))
    if row.efforts is None:
        efforts = "not said"
    elif not row.efforts:
        efforts = "none of them"
    else:
        efforts = ", ".join(f"**{effort}**" if effort == row.effort else effort for effort in row.efforts)
    refused = named(row.refused)
    if row.refused_reasoning:
        assert row.refused_reasoning == SAMPLING
        refused += "; all while it reasons"
    cells = [
        at,
        f"`{row.prefix}`" if row.prefix else "others",
        f"`{row.token_limit}`" if row.token_limit != "both" else "both",
        "taken" if row.stop else "cut here",
        others,
        efforts,
        refused.strip(),
        f"[page]({row.source})",
    ]
    return re.sub(r"  +", " ", f"| {' | '.join(cells)} |")


def families() -> list[str]:
    tables: dict[tuple[Family, ...], list[str]] = {}
    for name, dialect in COMPATIBLE.items():
        tables.setdefault(dialect.families, []).append(f"`{name}`")
    return [family(", ".join(names), row) for rows, names in tables.items() for row in rows]


def test_the_page_has_a_row_for_each_service() -> None:
    assert table("Services") == [service(name, row) for name, row in COMPATIBLE.items()]


def test_the_page_has_a_row_for_each_family_of_models() -> None:
    assert table("What models take") == families()


def test_every_row_names_the_page_that_it_was_taken_from() -> None:
    sources = [row.source for row in COMPATIBLE.values()]
    sources += [row.source for dialect in COMPATIBLE.values() for row in dialect.families]
    assert all(re.fullmatch(r"https://[\w.-]+/[\w./#-]*", source) for source in sources)


def test_every_table_says_what_other_models_take() -> None:
    for dialect in COMPATIBLE.values():
        prefixes = [row.prefix for row in dialect.families]
        assert "" in prefixes
        assert len(set(prefixes)) == len(prefixes)


def test_the_longest_prefix_decides() -> None:
    def prefix(model: str) -> str:
        return find(capabilities.OPENAI, model).prefix

    assert prefix("gpt-5.4-mini-2026-03-05") == "gpt-5.4"
    assert prefix("gpt-5-nano") == "gpt-5"
    assert prefix("gpt-5-chat-latest") == "gpt-5-chat"
    assert prefix("gpt-5.1-codex-max") == "gpt-5.1-codex-max"
    assert prefix("gpt-5.9") == "gpt-5."
    assert prefix("o1-mini-2024-09-12") == "o1-mini"
    assert prefix("ft:gpt-4o-2024-08-06:acme::x1") == "gpt-4o"
    assert prefix("qwen3-32b") == ""
