"""docs/fake-upstream.md says all that there is, and its examples work.

Scripts stand there in fences marked TOML in capitals: those in small letters are configurations of the gateway.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import msgspec

from penstock.fake_upstream.command import fake_upstream, log_line
from penstock.fake_upstream.directives import WORDS
from penstock.fake_upstream.faults import FAULTS
from penstock.fake_upstream.script import Answer, Rate, parse

PAGE = (Path(__file__).parents[2] / "docs" / "fake-upstream.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    cells = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_field_of_an_answer_is_documented_with_its_default() -> None:
    assert set(first_cells(section("Scripts"))) == {field.name for field in msgspec.structs.fields(Answer)}


def test_every_setting_of_a_rate_is_documented() -> None:
    assert first_cells(section("A limit on the rate")) == [field.name for field in msgspec.structs.fields(Rate)]


def test_every_directive_is_documented() -> None:
    assert first_cells(section("By model name")) == list(WORDS)


def test_every_option_is_documented() -> None:
    options = [option for parameter in fake_upstream.params for option in parameter.opts]
    assert isinstance(fake_upstream, click.Command)
    assert first_cells(PAGE.split("\n## ")[0]) == options


def test_every_field_of_the_log_is_documented() -> None:
    names = re.findall(r'^        "(\w+)":', (Path(log_line.__code__.co_filename)).read_text(), re.MULTILINE)
    assert [name for name in names if f"`{name}`" not in section("The log")] == []
    assert len(names) == 12


def test_the_example_scripts_are_valid() -> None:
    texts = re.findall(r"^```TOML\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    answers, rate = (parse(tomllib.loads(text)) for text in texts)
    assert list(answers.models) == ["gpt-5.4", "dies", "*"]
    assert rate.rate == Rate(10, 20)


def test_the_python_example_runs() -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_every_fault_is_documented_with_its_forms() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (stream|whole|both) \| (.+) \|$", section("Faults"), re.MULTILINE)
    forms = {(True, False): "stream", (False, True): "whole", (True, True): "both"}
    assert rows == [
        (name, forms[fault.stream is not None, fault.whole is not None], fault.text) for name, fault in FAULTS.items()
    ]
