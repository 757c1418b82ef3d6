"""`penstock check`: what is printed, for people and for programs, and the exit status to act on."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from check.checking import KEY
from penstock.fake_upstream import Answer
from penstock.fake_upstream.script import Fault
from penstock.verbs.check_url import check_url
from support.upstreams import ThreadedUpstream, threaded_upstream


@pytest.fixture
def right() -> Iterator[str]:
    with threaded_upstream(strict_profile="gpt-5.4", keys=[KEY]) as upstream:
        yield upstream.base_url


@pytest.fixture
def wrong() -> Iterator[ThreadedUpstream]:
    told = Fault(f"\x1b[31m[bold]{KEY} is wrong[/bold]")
    with threaded_upstream((Answer(faults=("role_repeated",)), Answer(status=418, error=told))) as upstream:
        yield upstream


def check(*arguments: object, key: str | None = KEY) -> Result:
    return CliRunner().invoke(check_url, [str(argument) for argument in arguments], env={"PENSTOCK_CHECK_KEY": key})


def test_rows_that_pass_end_in_zero(right: str) -> None:
    result = check(right, "--only", "I03,D01,A")
    assert result.exit_code == 1  # the fake upstream is no whole server
    result = check(right, "--only", "I03,D01")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "D01  M  the plainest request" in result.stdout
    assert "2 passed." in result.stdout
    assert "of a budget of 20000" in result.stdout
    assert "Failed" not in result.stdout


def test_a_failure_tells_what_was_expected_what_came_why_it_matters_and_who_breaks(wrong: ThreadedUpstream) -> None:
    with threaded_upstream(Answer(faults=("role_repeated",))) as upstream:
        result = check(upstream.base_url, "--only", "I07", "--model", "gpt-5.4")
    assert result.exit_code == 1
    failure = result.stdout.split("Failed\n")[1].splitlines()
    assert [line[5:15].strip() for line in failure[:5]] == ["asked", "expected", "came", "matters", "breaks"]
    assert "no role" in failure[1]
    assert "later deltas" in failure[2]
    assert "openai-python" in failure[4]


def test_what_a_server_says_is_shown_as_plain_text_without_the_key(wrong: ThreadedUpstream) -> None:
    result = check(wrong.base_url, "--only", "D09", "--model", "gpt-5.4")
    assert result.exit_code == 1
    assert "[bold]*** is wrong[/bold]" in result.output
    assert KEY not in result.output
    assert "\x1b" not in result.output


def test_json_is_one_object_with_every_row(right: str) -> None:
    result = check(right, "--only", "D,A12", "--level", "S,P", "--json", "--model", "gpt-5.4")
    whole = json.loads(result.stdout)
    assert whole["exit_status"] == result.exit_code == 0
    assert (whole["url"], whole["model"], whole["stopped"]) == (right, "gpt-5.4", None)
    assert sum(whole["counts"].values()) == len(whole["rows"])
    assert {row["level"] for row in whole["rows"]} == {"S", "P"}
    named = {"id", "level", "result", "asks", "expects", "got", "why", "breaks", "requests", "tokens", "duration_ms"}
    assert all(set(row) == named for row in whole["rows"])
    assert whole["spent"]["tokens"] > sum(row["tokens"] for row in whole["rows"]) > 0  # the first request is no row's
    assert KEY not in result.output


def test_the_key_may_come_from_a_file(right: str, tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text(f"{KEY}\n")
    assert check(right, "--only", "D01", "--key-file", file, key=None).exit_code == 0
    assert check(right, "--only", "D01", "--key", KEY, key=None).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:1/v1"], "could not run: no connection to 127.0.0.1:1"),
        (["127.0.0.1:8000"], "is no base URL such as"),
        (["http://127.0.0.1:1/v1", "--only", "Z"], "neither a row such as I07 nor a section"),
        (["http://127.0.0.1:1/v1", "--level", "Z"], "is no level"),
        (["http://127.0.0.1:1/v1", "--only", "B", "--level", "P"], "no row of that level"),
        (["http://127.0.0.1:1/v1", "--key", "a b"], "is none"),
        (["http://127.0.0.1:1/v1", "--key-file", "/nonexistent/key"], "There is no key in /nonexistent/key"),
    ],
)
def test_what_cannot_run_ends_in_two_and_says_why(arguments: list[str], said: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_what_cannot_run_is_an_object_too_where_json_is_wanted() -> None:
    result = check("http://127.0.0.1:1/v1", "--json")
    assert result.exit_code == 2
    whole = json.loads(result.stdout)
    assert (whole["exit_status"], whole["url"]) == (2, "http://127.0.0.1:1/v1")
    assert "no connection" in whole["stopped"]


def test_a_key_that_is_not_taken_is_said_and_not_shown(right: str) -> None:
    result = check(right, key="sk-wrong-0123456789abcdef")
    assert result.exit_code == 2
    assert "the key is not accepted" in result.stderr
    assert "sk-wrong-0123456789" not in result.output


def test_a_budget_that_ends_the_run_is_said_and_ends_in_two(right: str) -> None:
    result = check(right, "--only", "D", "--tokens", 100, "--model", "gpt-5.4")
    assert result.exit_code == 2
    assert "Stopped before the end: the next request could exceed the budget of 100 tokens" in result.stdout


def test_the_help_has_examples_and_the_exit_status() -> None:
    result = check("--help")
    assert result.exit_code == 0
    assert "penstock check http://127.0.0.1:8000/v1 --model gpt-5.4 --key-file key.txt" in result.stdout
    assert "Exit status: 0 when nothing failed" in result.stdout


def test_an_interruption_ends_in_a_report_of_what_was_found() -> None:
    answers = (Answer(), Answer(), Answer(wait="forever"))
    with threaded_upstream(answers) as upstream:
        command = [sys.executable, "-m", "penstock", "check", upstream.base_url, "--only", "D09,I03", "--model", "m"]
        # A shell that runs the tests in the background has them, and what they start, ignore interruptions.
        listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
        ) as process:
            upstream.reached("forever")
            process.send_signal(signal.SIGINT)
            told, wrong = process.communicate(timeout=30)
    assert (process.returncode, wrong) == (2, "")
    assert "Stopped before the end: it was interrupted." in told
    assert "1 passed, 1 skipped" in told
