"""`penstock usage` as its users meet it, on SQLite and on PostgreSQL: sums, errors with a fix, exports."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli import main
from penstock.stores.base import NewKey, NewProject, RequestRow
from penstock.stores.sql import open_stores
from support.databases import Place
from support.ledger import NOON, a_row, an_attempt

Usage = Callable[..., Result]
DAY = 86_400


@pytest.fixture(autouse=True)
def _nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PENSTOCK_CONFIG", "PENSTOCK_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def usage(place: Place, monkeypatch: pytest.MonkeyPatch) -> Usage:
    """Runs `penstock usage` on a store with two keys and a project, found as the server finds it."""
    config = place.directory / "penstock.toml"
    config.write_text(f'[server]\nstore = "{place.store}"\ndata_dir = "{place.directory}"\n')
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))

    async def fill() -> None:
        stores = await open_stores(place.store, place.directory)
        await stores.access.create_project(NewProject("prj_1", "web"))
        for number, letter in enumerate("ab"):
            new = NewKey(f"key_{letter}", f"key of {letter}", (), "sk-...", bytes([number]) * 32)
            await stores.access.create_key(new)
        await stores.ledger.store(rows(), [])
        await stores.close()

    asyncio.run(fill())
    return lambda *arguments: CliRunner().invoke(main, ("usage", *arguments))


def rows() -> list[RequestRow]:
    return [
        a_row(1, cost_nanos=2_500_000_000, user="=HYPERLINK(1)", tags="team=web,nightly"),
        a_row(2, NOON + 1, key_id="key_b", project_id="", cost_nanos=None, completion_source="estimated"),
        a_row(3, NOON + DAY, key_id="env", project_id="", asked="other", cost_nanos=None, stream=False),
        a_row(4, NOON + DAY + 1, key_id="key_b", project_id="", asked="gpt-5.4", cost_nanos=10),
    ]


def told(result: Result) -> list[list[str]]:
    """The table's rows in words."""
    assert result.exit_code == 0, result.output
    lines = [line.split("  ") for line in result.stdout.splitlines() if line.strip() and "─" not in line]
    return [[word.strip() for word in line if word.strip()] for line in lines]


def test_sums_are_shown_by_model_with_a_total(usage: Usage) -> None:
    result = usage()
    assert told(result) == [
        ["model", "requests", "prompt", "cached", "completion", "reasoning", "US dollars"],
        ["gpt-5.4", "3", "~300", "120", "~60", "15", "2.5000+"],
        ["other", "1", "100", "40", "20", "5", "?"],
        ["all", "4", "~400", "160", "~80", "20", "2.5000+"],
    ]
    assert "estimated" in result.stderr
    assert "no price is known" in result.stderr


def test_keys_and_projects_are_shown_by_name_and_chosen_by_it(usage: Usage) -> None:
    shown = told(usage("--by", "key"))
    assert [row[0] for row in shown[1:]] == ["PENSTOCK_API_KEY (env)", "key of a (key_a)", "key of b (key_b)", "all"]
    assert told(usage("--by", "key", "--project", "web"))[1][:2] == ["key of a (key_a)", "1"]
    assert told(usage("--by", "project", "--key", "key of a"))[1][:2] == ["web (prj_1)", "1"]
    assert told(usage("--by", "day", "--key", "env"))[1][:2] == ["2026-11-06", "1"]
    assert told(usage("--key", "key_b", "--since", "2026-11-06"))[1][-1] == "<0.0001"


def test_json_holds_ids_names_and_nanos(usage: Usage) -> None:
    result = usage("--by", "key,day", "--since", "2026-11-05", "--until", "2026-11-06T00:00", "--json")
    found = json.loads(result.stdout)
    assert [(one["key"], one["key_name"], one["day"], one["cost_nanos"]) for one in found["data"]] == [
        ("key_a", "key of a", "2026-11-05", 2_500_000_000),
        ("key_b", "key of b", "2026-11-05", None),
    ]
    assert found["total"]["requests"] == 2
    assert found["total"]["unpriced_requests"] == 1
    assert (found["since"], found["until"]) == (int(NOON) - DAY // 2, int(NOON) + DAY // 2)


def test_jsonl_has_a_row_for_each_request_in_order_of_time(usage: Usage) -> None:
    found = [json.loads(line) for line in usage("--export", "jsonl").stdout.splitlines()]
    assert [one["request_id"] for one in found] == [row.id for row in rows()]
    first = found[0]
    assert first["model"] == "gpt-5.4"
    assert first["provider"] == "openai"
    assert first["tags"] == ["team=web", "nightly"]
    assert first["trace"] == {"attempts": []}
    assert first["cost_nanos"] == 2_500_000_000
    assert found[1]["cost_nanos"] is None
    assert found[1]["completion_source"] == "estimated"
    (attempt,) = first["attempts"]
    assert (attempt["number"], attempt["outcome"]) == (1, an_attempt("req").outcome)
    some = usage("--export", "jsonl", "--since", "2026-11-06", "--key", "key_b").stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in some] == [rows()[3].id]


def test_csv_has_a_heading_and_no_formulas_of_clients(usage: Usage) -> None:
    heading, *found = csv.reader(io.StringIO(usage("--export", "csv").stdout))
    one = dict(zip(heading, found[0], strict=True))
    assert one["request_id"] == rows()[0].id
    assert one["user"] == "'=HYPERLINK(1)"
    assert (one["tags"], one["attempts"], one["stream"]) == ("team=web,nightly", "1", "1")
    assert len(found) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--by", "colour"], "key, project, model"),
        (["--by", "tag,day"], "tag alone"),
        (["--since", "yesterday"], "--since"),
        (["--export", "csv", "--json"], "--by and --json"),
        (["--key", "nobody"], "penstock keys list"),
        (["--project", "nobody"], "penstock projects list"),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_fix(usage: Usage, arguments: Sequence[str], says: str) -> None:
    result = usage(*arguments)
    assert result.exit_code != 0
    assert says in " ".join(result.stderr.split())


def test_nothing_used_is_an_empty_table(usage: Usage) -> None:
    assert len(told(usage("--since", "2027-01-01"))) == 1
    assert usage("--export", "jsonl", "--since", "2027-01-01").stdout == ""
