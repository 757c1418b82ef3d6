"""The table of the contract is whole: every row is in it once, with a test that exists or a reason for having none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "contract.md"

# How many rows each section of the checklist has.
SECTIONS = {
    "A": 23,
    "B": 5,
    "C": 5,
    "D": 15,
    "E": 28,
    "F": 32,
    "G": 21,
    "H": 10,
    "I": 28,
    "J": 9,
    "K": 8,
    "L": 8,
    "M": 6,
    "N": 8,
}
LATER = "M"  # the section of what is not built yet: batches
IDS = [f"{section}{number:02}" for section, count in SECTIONS.items() for number in range(1, count + 1)]

ROW = re.compile(r"^\| ([A-Z]\d\d) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
NODE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
DECISION = re.compile(r"\]\((decisions/\d{4}[\w-]*\.md)[)#]")


class Row(NamedTuple):
    row: str
    what: str
    level: str
    covered: str


ROWS = [Row(*match.groups()) for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


@cache
def functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def complaint(row: Row) -> str | None:
    """What is wrong with a row of the table; None when nothing is."""
    missing = [
        f"{path}::{name}"
        for path, name in NODE.findall(row.covered)
        if not (ROOT / path).is_file() or name not in functions(ROOT / path)
    ]
    if missing:
        return f"no such test: {', '.join(missing)}"
    if not set(row.level.split("/")) <= set("MSOP"):
        return f"no such level: {row.level}"
    remains = NODE.sub("", row.covered).strip()
    if remains.startswith("later: ") and remains != "later: " and row.row[0] in LATER:
        return None
    if remains.startswith("decided: ") and DECISION.search(remains):
        return None  # that the record exists is seen by the test of all links
    if remains:
        return f"neither a test nor a reason: {remains}"
    return None


def test_every_row_of_the_checklist_is_in_the_table_once_and_in_order() -> None:
    assert [row.row for row in ROWS] == IDS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.row)
def test_a_row_has_a_test_that_exists_or_a_reason(row: Row) -> None:
    assert complaint(row) is None


def test_a_row_without_either_is_noticed() -> None:
    here = "`tests/test_contract_table.py::test_a_row_without_either_is_noticed`"
    assert complaint(Row("A01", "what", "S/M", here)) is None
    assert complaint(Row("A01", "what", "P", "decided: [one](decisions/0001-record-decisions.md)")) is None
    assert complaint(Row("M01", "what", "M", "later: it needs a store")) is None
    assert (
        complaint(Row("A01", "what", "M", "later: when we like")) == "neither a test nor a reason: later: when we like"
    )
    assert complaint(Row("A01", "what", "X", here)) == "no such level: X"
    assert complaint(Row("A01", "what", "M", "by hand")) == "neither a test nor a reason: by hand"
    assert complaint(Row("M01", "what", "M", "later: ")) == "neither a test nor a reason: later:"
    assert complaint(Row("A01", "what", "M", "`tests/test_nowhere.py::test_x`")) == (
        "no such test: tests/test_nowhere.py::test_x"
    )
    assert complaint(Row("A01", "what", "M", f"{here} `tests/test_docs.py::test_nothing`")) == (
        "no such test: tests/test_docs.py::test_nothing"
    )
