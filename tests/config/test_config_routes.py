"""The [models.NAME] tables: names and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import ENV, GOOD, TYPES, only, problems, written

from penstock.config import load, summary


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


def served(directory: Path, text: str) -> bool:
    """Whether it is taken, model and all."""
    return "gpt-5.4" in load(written(directory, text), ENV, TYPES).models


CONTINUES = GOOD.replace('provider = "openai"', 'provider = "openai", continues = "message"')


def test_to_continue_answers_takes_a_target_that_can(tmp_path: Path) -> None:
    given = GOOD.replace("targets =", 'rescue = "continue"\ntargets =')
    problem = only(problems(tmp_path, given))
    assert problem.where == 'models."gpt-5.4".rescue'
    assert problem.message == "of no effect: no target continues an answer"
    assert served(tmp_path, CONTINUES.replace("targets =", 'rescue = "continue"\ntargets ='))
    assert served(tmp_path, GOOD.replace("targets =", 'rescue = "splice"\ntargets ='))


@pytest.mark.parametrize("rescue", ["", 'rescue = "off"\n', 'rescue = "splice"\n'])
def test_a_target_continues_nothing_unless_the_model_says_so(tmp_path: Path, rescue: str) -> None:
    problem = only(problems(tmp_path, CONTINUES.replace("targets =", f"{rescue}targets =")))
    assert problem.where == 'models."gpt-5.4".targets[0].continues'
    assert problem.message == "of no effect: the answers of this model are not continued"


def test_a_target_for_some_keys_may_be_the_one_that_continues(tmp_path: Path) -> None:
    given = GOOD.replace("targets =", 'rescue = "continue"\ntargets =')
    given += 'for_keys = [{ keys = ["a"], targets = [{ provider = "openai", continues = "prefix" }] }]\n'
    assert served(tmp_path, given)


def test_the_summary_tells_of_a_rescue(tmp_path: Path) -> None:
    config = load(written(tmp_path, GOOD.replace("targets =", 'rescue = "splice"\ntargets =')), ENV, TYPES)
    assert "openai (the name as asked); rescue: splice" in summary(config)
