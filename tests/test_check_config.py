"""`penstock check-config`: what would be served, or all that is wrong, and an exit status to act on."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.verbs.check_config import check_config

GOOD = """\
[providers.office]
type = "vllm"
base_url = "http://127.0.0.1:9/v1"
api_key = "sk-secret"
[models."gpt-5.4"]
targets = [{ provider = "office", model = "qwen3" }, { provider = "office" }]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "penstock.toml"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path


def check(*arguments: object, **env: str | None) -> Result:
    fresh = {"PENSTOCK_CONFIG": None, "PENSTOCK_DATA_DIR": None, "HOME": "/home/ann"}
    return CliRunner().invoke(check_config, [str(argument) for argument in arguments], env={**fresh, **env})


def test_a_good_file_says_what_would_be_served(path: Path) -> None:
    result = check(path)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert f"{path} can be served." in result.stdout
    assert "http://127.0.0.1:8000 (1 worker)" in result.stdout
    assert "gpt-5.4  office (qwen3), then office (the name as asked)" in result.stdout
    assert "vllm, http://127.0.0.1:9/v1" in result.stdout


def test_a_secret_is_never_printed(path: Path) -> None:
    path.chmod(0o644)
    result = check(path)
    assert "Warning: " in result.stderr
    assert f"{path}:4: providers.office.api_key" in result.stderr
    assert "sk-secret" not in result.output


def test_every_problem_is_printed_with_its_line_and_what_to_do(path: Path) -> None:
    path.write_text(GOOD.replace("http://", "ftp://").replace('"office" }]', '"offce" }]'))
    result = check(path)
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"{path}:3: providers.office.base_url: not an http or https URL. Fix: ")
    assert second.startswith(f'{path}:6: models."gpt-5.4".targets[1].provider: ')
    assert last == f"{path} cannot be served: 2 problems."


def test_what_is_wrong_anywhere_is_told_at_once(path: Path) -> None:
    """In the server's table, in what all providers have, in what only a service knows, in routes and prices."""
    path.write_text(
        """\
[server]
wrokers = 2
[providers.cloud]
type = "azure"
api_key = "sk-secret"
pool_wait = -1
headers = { "API-Key" = "sk-secret-2", "x-a.b" = "1", "X-A.B" = "2" }
[providers.deep]
type = "deepseek"
[providers.local]
type = "vllm"
base_url = "http://a<b/v1"
[models."gpt-5.4"]
targets = [{ provider = "claud" }]
[prices."cloud/x"]
output = 1
input = -1
"""
    )
    result = check(path)
    assert result.exit_code == 1
    *lines, last = result.stderr.splitlines()
    assert last == f"{path} cannot be served: {len(lines)} problems."
    assert all(" Fix: " in line for line in lines)
    assert "sk-secret" not in result.output
    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in lines] == [
        ["2", "server.wrokers"],
        ["3", "providers.cloud.base_url"],
        ["6", "providers.cloud.pool_wait"],
        ["7", "providers.cloud.headers.API-Key"],
        ["7", 'providers.cloud.headers."X-A.B"'],
        ["8", "providers.deep.api_key"],
        ["12", "providers.local.base_url"],
        ["14", 'models."gpt-5.4".targets[0].provider'],
        ["17", 'prices."cloud/x".input'],
    ]


def test_the_file_may_come_from_the_environment(path: Path) -> None:
    assert check(PENSTOCK_CONFIG=str(path)).exit_code == 0


def test_without_a_file_nothing_is_checked(path: Path) -> None:
    result = check()
    assert result.exit_code == 2
    assert "PENSTOCK_CONFIG" in result.stderr


def test_the_help_has_an_example() -> None:
    result = check("--help")
    assert result.exit_code == 0
    assert "  penstock check-config /etc/penstock/penstock.toml" in result.stdout
