"""The [models.NAME] tables: names and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import GOOD, only, problems


@pytest.mark.parametrize("name", ["gpt-*x", "a**", "*a", "", " a", "a\\n", "x" * 257])
def test_a_name_of_a_model_is_exact_or_ends_in_one_star(tmp_path: Path, name: str) -> None:
    assert only(problems(tmp_path, GOOD.replace('"gpt-5.4"', f'"{name}"'))).message == "not a name for a model"


def test_a_model_without_targets_is_refused(tmp_path: Path) -> None:
    missing = only(problems(tmp_path, '[models.m]\npolicy = "ordered"\n'))
    assert (missing.where, missing.message) == ("models.m.targets", "missing")
    assert only(problems(tmp_path, "[models.m]\ntargets = []\n")).where == "models.m.targets"


def test_a_target_names_a_provider_that_is_configured(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, GOOD.replace('provider = "openai"', 'provider = "opnai"')))
    assert (problem.message, problem.fix) == ('the provider "opnai" is not configured', "did you mean openai?")


def test_a_target_of_a_broken_provider_is_not_blamed_too(tmp_path: Path) -> None:
    assert only(problems(tmp_path, GOOD.replace("env:KEY", "env:NOPE"))).where == "providers.openai.api_key"


@pytest.mark.parametrize("key", ["model", "like"])
def test_a_target_names_one_model(tmp_path: Path, key: str) -> None:
    given = GOOD.replace('provider = "openai"', f'provider = "openai", {key} = "gpt-*"')
    problem = only(problems(tmp_path, given))
    assert (problem.where, problem.message) == (f'models."gpt-5.4".targets[0].{key}', "not a name for a model")


def test_a_configuration_without_models_serves_nothing(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, ""))
    assert (problem.where, problem.line) == ("models", 1)
    assert only(problems(tmp_path, "[models]\n")).where == "models"


def test_a_forgotten_pair_of_quotes_is_recognised(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, GOOD.replace('"gpt-5.4"', "gpt-5.4")))
    assert (problem.line, problem.fix) == (5, 'write [models."gpt-5.4"]')
