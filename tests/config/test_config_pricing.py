"""The [prices."PROVIDER/MODEL"] tables: names and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import ENV, GOOD, TYPES, only, problems, written

from penstock.config import Config, Price, changes, load


def priced(name: str, lines: str = "input = 1\noutput = 2") -> str:
    return f'{GOOD}\n[prices."{name}"]\n{lines}\n'


def test_prices_are_kept_as_they_are_written(tmp_path: Path) -> None:
    text = priced("openai/gpt-5.4", "input = 1.25\noutput = 10\ncached_input = 0.125") + priced("openai/*")[len(GOOD) :]
    found = load(written(tmp_path, text), ENV, TYPES).prices
    assert found == {"openai/gpt-5.4": Price(1.25, 10, 0.125), "openai/*": Price(1, 2)}


@pytest.mark.parametrize("name", ["openai/gpt-*x", "openai/", "openai/a**", "openai/ a"])
def test_a_price_is_of_a_model_or_of_names_that_begin_so(tmp_path: Path, name: str) -> None:
    assert only(problems(tmp_path, priced(name))).message == "not a name for a model"


def test_a_model_with_a_slash_in_its_name_has_a_price(tmp_path: Path) -> None:
    assert "openai/meta/llama-3" in load(written(tmp_path, priced("openai/meta/llama-3")), ENV, TYPES).prices


def test_a_price_is_of_a_provider_that_is_configured(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, priced("opnai/gpt-5.4")))
    assert (problem.where, problem.fix) == ('prices."opnai/gpt-5.4"', "did you mean openai?")


def test_a_price_of_no_provider_is_refused(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, priced("gpt-5.4")))
    assert (problem.message, problem.line) == ("not a provider and a model", 8)


def test_every_fault_of_a_price_is_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, priced("opnai/gpt-5.4", 'input = -1\ncached_input = "free"\noutputs = 3'))
    assert [problem.where.rpartition(".")[2] for problem in found if problem.line and problem.line > 8] == [
        "input",
        "cached_input",
        "outputs",
    ]
    assert {problem.message for problem in found} >= {"missing", "unknown setting"}
    assert len(found) == 5


def test_a_running_server_takes_new_prices() -> None:
    found = changes(Config(prices={"a/m": Price(1, 1)}), Config(prices={"a/m": Price(2, 1), "a/*": Price(0, 0)}))
    assert found.changed == ('prices."a/m"', 'prices."a/*" (added)')
    assert found.config.prices["a/m"] == Price(2, 1)
