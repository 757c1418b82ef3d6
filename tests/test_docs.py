"""The documentation says what is so: links resolve, examples load, compile and name what exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import click
import msgspec
import pytest

from penstock.cli import main
from penstock.config import Server, load
from penstock.config.shapes import PolicyName
from penstock.errors import FailureKind
from penstock.gateway.routing.policies import POLICIES
from penstock.link import METRICS
from penstock.providers.registry import SETTINGS
from penstock.types import Record
from support.serving import Served, serving
from support.upstreams import threaded_upstream

ROOT = Path(__file__).parents[1]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", "examples/README.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
OBSERVABILITY = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")

LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] in languages:
                found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]))
    return found


def where(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a shell example, prompts and continuation lines resolved."""
    for line in text.replace("\\\n", " ").splitlines():
        yield shlex.split(re.sub(r"^[$#] ", "", line), comments=True)


def misuse(words: list[str], command: click.Command) -> str | None:
    """What is wrong with a `penstock` command line, by what click knows; None when nothing is."""
    context = click.Context(command)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            return None if words in (["--help"], ["--version"]) else "names no verb"
        verb, *words = words
        found = command.get_command(context, verb)
        if found is None:
            return f"{verb} is no verb"
        command, context = found, click.Context(found, parent=context)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--") and word.split("=")[0] not in known | {"--help"}:
            return f"{command.name} has no option {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("block", blocks("toml"), ids=where)
def test_a_toml_example_is_a_configuration_that_loads(block: Block, tmp_path: Path) -> None:
    table = tomllib.loads(block.text)
    if "models" in table:
        file = tmp_path / "penstock.toml"
        file.write_text(block.text, encoding="utf-8")
        file.chmod(0o600)
        secrets = dict.fromkeys(re.findall(r'"env:(\w+)"', block.text), "sk-example")
        load(file, {"HOME": str(tmp_path), **secrets}, SETTINGS)
    else:
        assert table.keys() <= {"server", "providers"}, "a part of a configuration"
        assert table.get("server", {}).keys() <= set(Server.__struct_fields__)


@pytest.mark.parametrize("block", blocks("bash", "console"), ids=where)
def test_a_shell_example_uses_verbs_and_options_that_exist(block: Block) -> None:
    wrong = [misuse(words[1:], main) for words in commands(block.text) if words and Path(words[0]).name == "penstock"]
    assert [complaint for complaint in wrong if complaint] == []


def test_a_verb_or_an_option_that_does_not_exist_is_noticed() -> None:
    assert misuse(["frobnicate"], main) == "frobnicate is no verb"
    assert misuse(["serve", "--frobnicate"], main) == "serve has no option --frobnicate"


@pytest.mark.parametrize("block", blocks("bash", "python", "js"), ids=where)
def test_an_example_asks_this_gateway_for_the_model_of_every_example(block: Block) -> None:
    assert set(re.findall(r"https?://([^/\"'\s]+)", block.text)) <= {"127.0.0.1:8000"}
    assert set(re.findall(r"[\"']?\bmodel[\"']?\s*[:=]\s*[\"']([^\"']+)", block.text)) <= {"gpt-5.4"}


def test_every_page_is_found_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    pages = {page for page in (ROOT / "docs").iterdir() if page.is_file() and page != index}
    assert pages - linked == set()


def test_a_policy_has_its_function_its_name_in_the_configuration_and_its_row() -> None:
    routing = (ROOT / "docs" / "resilience.md").read_text(encoding="utf-8").split("## Routing")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", routing, re.MULTILINE)
    assert rows == list(POLICIES) == list(get_args(PolicyName))


def test_every_outcome_of_an_attempt_is_documented() -> None:
    said = OBSERVABILITY.split("The `outcome` of an attempt")[1].split("\n## ")[0]
    assert {"ok", "cancelled", *(kind.value for kind in FailureKind)} - set(re.findall(r"`(\w+)`", said)) == set()


def test_every_metric_is_documented_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(penstock_\w+)` \| (\w+) \| (.*?) ?\|", OBSERVABILITY, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == {metric.name: (metric.kind, metric.labels) for metric in METRICS}


def test_every_field_of_the_access_line_is_documented() -> None:
    table = OBSERVABILITY.split("## The access line")[1].split("## Metrics")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {field.encode_name for field in msgspec.structs.fields(Record)}


GATEWAY = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "sk-of-the-provider"

[models."gpt-5.4"]
targets = [{{ provider = "openai" }}]
"""

NODE = ROOT / "tests" / "sdk" / "node"  # where the SDK is installed

RUNNERS = {
    "python": [sys.executable, "-W", "error", "-"],
    "js": ["node", "--input-type=module", "-"],
    "bash": ["bash", "-euo", "pipefail", "-s"],
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A gateway in front of an upstream that holds every request to OpenAI's rules for gpt-5.4."""
    with (
        threaded_upstream(strict_profile="gpt-5.4", keys=["sk-of-the-provider"]) as upstream,
        serving(GATEWAY.format(base_url=upstream.base_url)) as running,
    ):
        yield running


# Those that call the gateway; the fake upstream's page has a test of its own.
CALLS = [
    block for block in blocks(*RUNNERS) if re.search(r"127\.0\.0\.1:8000/v1.*(\.create\(|-d ')", block.text, re.DOTALL)
]


@pytest.mark.parametrize("block", CALLS, ids=where)
def test_an_example_runs_as_it_stands(block: Block, served: Served) -> None:
    script = block.text.replace("http://127.0.0.1:8000", served.url).replace("sk-...", served.key)
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables |= {"PENSTOCK_API_KEY": served.key, "NO_PROXY": "127.0.0.1"}
    ran = subprocess.run(
        RUNNERS[block.language], input=script, cwd=NODE, env=variables, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert '"error"' not in ran.stdout
