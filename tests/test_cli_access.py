"""Keys, projects and limits as an operator manages them from the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from penstock.cli import main
from penstock.stores.schema import SCHEMA
from penstock.verbs.access import amount, dollars, moment
from support.postgres import PostgresServer

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PENSTOCK_CONFIG", "PENSTOCK_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def done(*arguments: str) -> Any:
    """What a verb prints with --json."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code in (1, 2), result.output
    return result.stderr


# -- keys


def test_a_key_is_made_with_its_limits_budget_and_bounds() -> None:
    done("projects", "create", "--name", "web")
    made = done(
        *("keys", "create", "--name", "app", "--project", "web", "--rpm", "60", "--tpm", "100_000"),
        *("--concurrency", "7", "--budget-usd", "12.50", "--models", "gpt-5.4,local-*"),
        *("--endpoints", "chat.completions,responses", "--expires", "2100-01-31", "--weight", "2.5"),
        *("--metadata", "team=a=b", "--metadata", "cost centre= 12"),
    )
    project = done("projects", "list")[0]
    assert made["project_id"] == project["id"]
    assert made["models"] == ["gpt-5.4", "local-*"]
    assert made["endpoints"] == ["chat.completions", "responses"]
    assert made["expires_at"] == int(datetime(2100, 1, 31, tzinfo=UTC).timestamp())
    assert made["weight"] == 2.5
    assert made["metadata"] == {"team": "a=b", "cost centre": "12"}
    assert {limit["meter"]: limit["amount"] for limit in made["limits"]} == {
        "rpm": 60,
        "tpm": 100_000,
        "concurrency": 7,
        "usd_per_month": 12_500_000_000,
    }
    del made["key"]
    listed = done("keys", "list")[0]
    assert sorted(listed.pop("limits"), key=str) == sorted(made.pop("limits"), key=str)
    assert listed == made


@pytest.mark.parametrize(("period", "meter"), [("day", "usd_per_day"), ("total", "usd_total")])
def test_a_budget_may_be_for_a_day_or_for_ever(period: str, meter: str) -> None:
    made = done("keys", "create", "--name", "a", "--budget-usd", "0.000000001", "--budget-period", period)
    assert [(limit["meter"], limit["amount"], limit["usd"]) for limit in made["limits"]] == [(meter, 1, "0.000000001")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--project", "nowhere"), "penstock projects create"),
        (("--rpm", "0"), "rpm takes a whole number above 0"),
        (("--rpm", "1.5"), "rpm takes a whole number above 0"),
        (("--budget-usd", "ten"), "US dollars"),
        (("--budget-usd", "0.0000000001"), "at most nine decimals"),
        (("--expires", "tomorrow"), "2027-01-31"),
        (("--expires", "2020-01-01"), "has passed"),
        (("--endpoints", "chat"), "chat.completions"),
        (("--weight", "0"), "above 0"),
        (("--metadata", "team"), "name=value"),
        (("--models", ""), "no model"),
    ],
)
def test_what_a_key_cannot_have_is_told_with_a_fix_and_nothing_is_kept(arguments: tuple[str, str], said: str) -> None:
    done("keys", "create", "--name", "before")
    assert said in refused("keys", "create", "--name", "a", *arguments)
    assert len(done("keys", "list")) == 1
    assert done("limits", "list") == []


def test_a_key_is_edited_and_what_is_not_named_stays() -> None:
    done("projects", "create", "--name", "web")
    made = done("keys", "create", "--name", "app", "--models", "gpt-5.4", "--expires", "30d", "--metadata", "a=1")
    edited = done("keys", "edit", "app", "--models", "all", "--expires", "never", "--project", "web", "--name", "b")
    assert (edited["models"], edited["expires_at"], edited["name"]) == ([], None, "b")
    assert edited["project_id"] is not None
    assert edited["metadata"] == {"a": "1"}
    assert done("keys", "edit", made["id"], "--project", "none")["project_id"] is None
    assert "nothing to change" in refused("keys", "edit", "b")
    assert "penstock keys list" in refused("keys", "edit", "app", "--weight", "2")
    done("keys", "revoke", "b")
    assert "revoked, which is for good" in refused("keys", "edit", "b", "--weight", "2")


# -- projects


def test_a_project_is_made_edited_listed_and_archived() -> None:
    made = done("projects", "create", "--name", "web", "--models", "gpt-*", "--metadata", "owner=ada", "--keep-content")
    assert (made["models"], made["metadata"], made["keeps_content"]) == (["gpt-*"], {"owner": "ada"}, True)
    assert "choose another name" in refused("projects", "create", "--name", "web")
    edited = done("projects", "edit", "web", "--name", "site", "--endpoints", "responses", "--no-keep-content")
    assert (edited["name"], edited["endpoints"], edited["keeps_content"]) == ("site", ["responses"], False)
    archived = done("projects", "archive", "site")
    assert archived["archived_at"] is not None
    assert done("projects", "list") == [archived]
    assert "archived, which is for good" in refused("keys", "create", "--name", "a", "--project", "site")
    assert "site" in run("projects", "list").stdout


# -- limits


def test_limits_are_set_changed_listed_and_removed() -> None:
    done("projects", "create", "--name", "web")
    key = done("keys", "create", "--name", "app", "--project", "web")
    first = done("limits", "set", "rpm", "60", "--key", "app")
    assert (first["scope"], first["scope_id"], first["amount"], first["unit"]) == ("key", key["id"], 60, "requests")
    done("limits", "set", "rpm", "30", "--key", key["id"])
    money = done(
        *("limits", "set", "usd_per_month", "500.05", "--project", "web", "--model", "gpt-5*"),
        *("--rolling", "--hard", "--fail-open"),
    )
    assert (money["amount"], money["usd"], money["model"]) == (500_050_000_000, "500.05", "gpt-5*")
    assert (money["rolling"], money["hard"], money["shadow"], money["fails_open"]) == (True, True, False, True)
    assert [limit["amount"] for limit in done("limits", "list", "--key", "app")] == [30]
    table = run("limits", "list").stdout
    for shown in ("key app", "30 requests per minute", "project web", "500.05 US dollars per month", "rolling, hard"):
        assert shown in table
    assert done("limits", "remove", "usd_per_month", "--project", "web", "--model", "gpt-5*") == money
    assert "penstock limits list" in refused("limits", "remove", "usd_per_month", "--project", "web")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rpm", "60"), "either --key or --project"),
        (("rpm", "60", "--key", "app", "--project", "web"), "either --key or --project"),
        (("rph", "60", "--key", "app"), "rpm"),
        (("rpm", "sixty", "--key", "app"), "whole number"),
        (("rpm", "60", "--key", "nobody"), "penstock keys list"),
        (("rpm", "60", "--key", "app", "--rolling"), "leave out --rolling"),
        (("rpm", "60", "--key", "app", "--hard"), "leave out --hard"),
        (("tpm", "60", "--key", "app", "--hard", "--shadow"), "--shadow"),
        (("usd_total", "nan", "--key", "app"), "US dollars"),
        (("usd_total", "99999999999", "--key", "app"), "US dollars"),
    ],
)
def test_a_limit_that_could_not_hold_is_told_with_a_fix(arguments: tuple[str, ...], said: str) -> None:
    done("keys", "create", "--name", "app")
    assert said in refused("limits", "set", *arguments)
    assert done("limits", "list") == []


# -- values


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12h", datetime(2026, 11, 29, 0, 0, tzinfo=UTC)),
        ("30d", datetime(2026, 12, 28, 12, 0, tzinfo=UTC)),
        ("2w", datetime(2026, 12, 12, 12, 0, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T18:00", datetime(2027, 1, 31, 18, 0, tzinfo=UTC)),
        ("2027-01-31T18:00+02:00", datetime(2027, 1, 31, 16, 0, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_date_or_a_span(text: str, found: datetime) -> None:
    assert moment(text, NOW) == found.timestamp()


@pytest.mark.parametrize("text", ["0d", "2026-11-28", "30", "d", "-1d", "99999w"])
def test_a_time_that_has_passed_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("text", "nanos", "shown"),
    [
        ("12.5", 12_500_000_000, "12.50"),
        ("0.1", 100_000_000, "0.10"),
        ("1e3", 1_000_000_000_000, "1000.00"),
        ("9000000000", 9 * 10**18, "9000000000.00"),
        ("0.123456789", 123_456_789, "0.123456789"),
    ],
)
def test_dollars_become_nano_dollars_exactly(text: str, nanos: int, shown: str) -> None:
    assert amount("usd_total", text) == nanos
    assert dollars(nanos) == shown


# -- PostgreSQL


def test_every_verb_works_on_the_database_that_the_configuration_names(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database").write_text(postgres.create())
    (tmp_path / "penstock.toml").write_text(f'[server]\nstore = "file:{tmp_path}/database"\n')
    config = ("--config", str(tmp_path / "penstock.toml"))
    migrated = run("migrate", *config)
    assert migrated.exit_code == 0, migrated.output
    assert migrated.stdout.strip().endswith(f"the schema is {SCHEMA}.")
    assert "PostgreSQL at" in migrated.stdout
    done("projects", "create", "--name", "web", *config)
    made = done("keys", "create", "--name", "app", "--project", "web", "--rpm", "60", *config)
    monkeypatch.setenv("PENSTOCK_CONFIG", config[1])
    assert [record["id"] for record in done("keys", "list")] == [made["id"]]
    assert [limit["amount"] for limit in done("limits", "list", "--key", "app")] == [60]
    assert not (tmp_path / "home").exists()


def test_a_database_that_cannot_be_reached_is_told_without_its_password(tmp_path: Path) -> None:
    config = tmp_path / "penstock.toml"
    config.write_text('[server]\nstore = "postgresql://penstock:hunter2@127.0.0.1:1/db"\n')
    said = refused("keys", "list", "--config", str(config))
    assert "PostgreSQL at 127.0.0.1:1, database db" in said
    assert "hunter2" not in said
    config.write_text('[server]\nstore = "env:NOT_SET_ANYWHERE"\n')
    assert "NOT_SET_ANYWHERE" in refused("keys", "list", "--config", str(config))


def test_migrate_makes_a_database_where_there_is_none(tmp_path: Path) -> None:
    result = run("migrate", "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 0, result.output
    assert f"the schema is {SCHEMA}." in result.stdout
    assert run("keys", "list", "--data-dir", str(tmp_path / "data")).exit_code == 0
