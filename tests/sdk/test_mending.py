"""Each fault of an upstream, through Penstock, leaves every client with the right answer or a clear error.

All clients are asked once, with Penstock in between and without; each cell of the matrix is a test of its own, and
docs/mending.md says what the clients make of the faults by themselves.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.fake_upstream.faults import FAULTS
from sdk import openai_python_client
from sdk.conftest import ANY_MODEL, NODE, UPSTREAM_KEY
from sdk.mending import CASES, CLEAN, CLIENTS, MATRIX, ROWS, SCRIPT, SENTENCE, Form, Row
from support.serving import serving
from support.upstreams import threaded_upstream

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mending.md").read_text(encoding="utf-8")
FRAMEWORKS = ROOT / ".venv-clients" / "bin" / "python"
TIMEOUT = 120.0

# What each client raises for an error that a server tells it of, as an answer or in a stream.
CLEAR = {"APIError", "InternalServerError", "OpenAIAPIError", "AI_APICallError", "AI_StreamProviderError"}

Outcomes = dict[tuple[str, str, str], dict[str, Any]]  # by way, client and model


def run(command: list[str], told: dict[str, Any]) -> Iterator[Any]:
    """The lines of JSON that a client in a process of its own prints."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        command, input=json.dumps(told), env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert result.returncode == 0, result.stderr
    yield from map(json.loads, result.stdout.splitlines())


@pytest.fixture(scope="session")
def outcomes(packages: None) -> Outcomes:
    """What came of every case, direct and through Penstock."""
    found: Outcomes = {}
    with (
        threaded_upstream(SCRIPT) as upstream,
        serving(ANY_MODEL.format(base_url=upstream.base_url), environment={"UPSTREAM_KEY": UPSTREAM_KEY}) as served,
    ):
        ways = {"direct": upstream.base_url, "through": served.base_url}
        for way, base_url in ways.items():
            for client, model, outcome in openai_python_client.outcomes(base_url, served.key, CASES):
                found[way, client, model] = outcome
        told = {"ways": ways, "key": served.key, "cases": CASES}
        for command in (
            ["node", str(NODE / "mend.mjs")],
            [str(FRAMEWORKS), str(Path(__file__).with_name("langchain_client.py"))],
        ):
            for way, client, model, outcome in run(command, told):
                found[way, client, model] = outcome
    return found


def readable(outcome: dict[str, Any], row: Row) -> dict[str, Any]:
    """The outcome as it is compared: of ids that the upstream did not give, all that counts is that calls have some."""
    if not row.leaves_ids_out or "choices" not in outcome:
        return outcome
    choices = []
    for choice in outcome["choices"]:
        ids = [call.get("id") for call in choice["calls"] if call is not None]
        told_apart = len(ids) == len(set(ids)) and all(isinstance(one, str) and one for one in ids)
        calls = [call and {**call, "id": told_apart} for call in choice["calls"]]
        choices.append({**choice, "calls": calls})
    return {**outcome, "choices": choices}


def verdict(outcome: dict[str, Any], clean: dict[str, Any], row: Row) -> str:
    """What a client makes of a fault, in a word: ok, the error it ends in, or what of the answer is not right."""
    if "error" in outcome:
        return f"`{outcome['error']['kind']}`"
    outcome, clean = readable(outcome, row), readable(clean, row)
    if len(outcome["choices"]) != len(clean["choices"]):
        return "no answer"
    wrong = [
        name
        for name in ("role", "content", "calls", "finish")
        if any(
            (one or {}).get(name) != other[name]
            for one, other in zip(outcome["choices"], clean["choices"], strict=True)
        )
    ]
    wrong += ["usage"] if outcome["usage"] != clean["usage"] else []
    return ", ".join(wrong) or "ok"


def cells_of(rows: Sequence[Row]) -> list[Any]:
    """A test for each row and client."""
    return [pytest.param(row, client, id=f"{row.model}-{client}") for row in rows for client in row.clients]


@pytest.mark.parametrize(("row", "client"), cells_of(MATRIX))
def test_an_upstreams_fault_reaches_no_client(row: Row, client: str, outcomes: Outcomes) -> None:
    outcome = outcomes["through", client, row.model]
    if row.ends == "intact":
        assert readable(outcome, row) == readable(outcomes["through", client, row.clean], row)
    else:
        error = outcome["error"]
        assert error["kind"] in CLEAR
        assert "The provider 'openai' " in error["message"]


@pytest.mark.parametrize(("row", "client"), cells_of(CLEAN))
def test_an_answer_without_a_fault_is_what_the_upstream_said(row: Row, client: str, outcomes: Outcomes) -> None:
    through = outcomes["through", client, row.model]
    assert through == outcomes["direct", client, row.model]
    assert len(through["choices"]) == row.n
    for choice in through["choices"]:
        assert choice["role"].lower() in ("assistant", "ai")
        assert choice["content"] == SENTENCE if not row.answer.tool_calls else not choice["content"]
        calls = [(call["id"], call["name"], call["arguments"]) for call in choice["calls"]]
        assert calls == [(call.id, call.name, json.loads(call.arguments)) for call in row.answer.tool_calls]
        assert choice["finish"].replace("-", "_") == ("tool_calls" if calls else "stop")
    assert through["usage"] == [7, 11, 18] or (not row.asks_usage and through["usage"] is None)


def test_every_named_fault_is_in_the_matrix_in_each_of_its_forms() -> None:
    tried = {(name, row.form) for row in MATRIX for name in row.answer.faults}
    known = {(name, "streamed") for name, fault in FAULTS.items() if fault.stream}
    known |= {(name, "whole") for name, fault in FAULTS.items() if fault.whole}
    assert tried == known
    assert len(ROWS) == len(CLEAN) + len(MATRIX)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def cells(form: Form, outcomes: Outcomes) -> list[list[str]]:
    """The table of one form as the page must have it."""
    clients = [client for client in CLIENTS if any(client in row.clients for row in MATRIX if row.form == form)]
    found = []
    for row in MATRIX:
        if row.form == form:
            made = [
                verdict(outcomes["direct", client, row.model], outcomes["direct", client, row.clean], row)
                if client in row.clients
                else "-"
                for client in clients
            ]
            found.append([f"`{row.name}`: {row.said}", row.contract, *made, row.ends])
    return found


@pytest.mark.parametrize(("form", "title"), [("streamed", "Streamed answers"), ("whole", "Whole answers")])
def test_the_page_says_what_every_client_makes_of_every_fault(form: Form, title: str, outcomes: Outcomes) -> None:
    lines = re.findall(r"^\| (`\w+`: .+) \|$", section(title), re.MULTILINE)
    assert [line.split(" | ") for line in lines] == cells(form, outcomes)


def test_the_page_names_the_versions_that_are_locked() -> None:
    package = json.loads((NODE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for name in ("openai", "ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"):
        assert f"`{name}` {package[name]}" in PAGE
    locked = (ROOT / "requirements" / "clients.txt").read_text(encoding="utf-8")
    langchain = re.search(r"^langchain-openai==(\S+)", locked, re.MULTILINE)
    dev = re.search(r"^openai==(\S+)", (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert langchain is not None
    assert dev is not None
    assert f"`langchain-openai` {langchain[1]}" in PAGE
    assert f"openai-python {dev[1]}" in PAGE
