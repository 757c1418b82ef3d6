"""The check's own look at JSON schemas says what is wrong, and where."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.check.rows.formats import SCHEMA
from penstock.check.schema import complaint

ANN = {"name": "Ann"}
GOOD = {"title": "note", "author": ANN, "parent": None, "tags": ["red", "blue"], "draft": False}


@pytest.mark.parametrize("change", [{}, {"parent": {"name": "Bob"}}, {"tags": []}])
def test_a_value_that_keeps_the_schema_draws_no_complaint(change: dict[str, Any]) -> None:
    assert complaint({**GOOD, **change}, SCHEMA) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it is not of type object"),
        ({"title": "note"}, "it has no author"),
        ({**GOOD, "more": 1}, "it has more, which the schema does not know"),
        ({**GOOD, "title": "poem"}, "it.title is none of"),
        ({**GOOD, "author": {"name": "Eve"}}, "it.author.name is none of"),
        ({**GOOD, "parent": 3}, "it.parent is not of type object"),
        ({**GOOD, "tags": ["red", "green"]}, "it.tags[1] is none of"),
        ({**GOOD, "draft": 0}, "it.draft is not of type boolean"),
    ],
)
def test_a_value_that_breaks_the_schema_is_told_where(value: Any, said: str) -> None:
    assert said in (complaint(value, SCHEMA) or "")


def test_a_boolean_is_no_number() -> None:
    assert complaint(True, {"type": "integer"}) is not None
    assert complaint(1.5, {"type": "number"}) is None
