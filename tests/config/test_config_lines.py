"""The line of every key, in every way that TOML has to write one."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.lines import Lines

DOCUMENT = '''\
top = 1  # a comment with [brackets] = "and quotes"
a.b . "c.d" = 2

[server]  # [not.a.table]
listen = """
[server]
workers = 1
\\"""" # closed
workers = 3
hosts = [
  "x = 1",  # , ]
  # "y"
  [ "z" ],
  { deep = 1.5, deeper.still = [1, 2] }, 1979-05-27 07:32:00,
]
inline = { one = 1, "two" = { three = 'x}' }, four = [] }
last = \'\'\'
]]\'\'\'\'

  [models."gpt-5.4"]
targets = [{ provider = "a" }, { provider = "b" }]
'quoted.key' = 1
"esc\\u0061ped" = 1

[[list]]
x = 1
[list.sub]
y = 2
[[list]]
x = 3
[list.sub]
y = 4
[ "sp aced" . t ]
z = 5'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("a",), 2),
        (("a", "b", "c.d"), 2),
        (("server",), 4),
        (("server", "listen"), 5),
        (("server", "workers"), 9),
        (("server", "hosts"), 10),
        (("server", "hosts", 0), 11),
        (("server", "hosts", 1), 13),
        (("server", "hosts", 1, 0), 13),
        (("server", "hosts", 2, "deep"), 14),
        (("server", "hosts", 2, "deeper", "still", 1), 14),
        (("server", "hosts", 3), 14),
        (("server", "inline", "two", "three"), 16),
        (("server", "inline", "four"), 16),
        (("server", "last"), 17),
        (("models",), 20),
        (("models", "gpt-5.4"), 20),
        (("models", "gpt-5.4", "targets", 1, "provider"), 21),
        (("models", "gpt-5.4", "quoted.key"), 22),
        (("models", "gpt-5.4", "escaped"), 23),
        (("list", 0, "x"), 26),
        (("list", 0, "sub", "y"), 28),
        (("list", 1), 29),
        (("list", 1, "x"), 30),
        (("list", 1, "sub", "y"), 32),
        (("sp aced", "t", "z"), 34),
    ],
)
def test_a_key_is_found_at_its_line(path: tuple[str | int, ...], line: int) -> None:
    assert Lines(DOCUMENT).of(path) == line
    value: object = tomllib.loads(DOCUMENT)
    for part in path:  # and it is there for the standard parser too
        value = value[part]  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "line"),
    [(("server", "missing"), 4), (("server", "inline", "two", "no", "no"), 16), (("nowhere", "x"), 1), ((), 1)],
)
def test_what_is_missing_has_the_line_of_the_table_around_it(path: tuple[str | int, ...], line: int) -> None:
    assert Lines(DOCUMENT).of(path) == line


def test_windows_line_ends_change_no_line() -> None:
    assert Lines(DOCUMENT.replace("\n", "\r\n")).of(("sp aced", "t", "z")) == 34


_names = st.text(min_size=1, max_size=4)
_values = st.recursive(
    st.text(max_size=6).map(lambda text: text.encode("unicode_escape").decode()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)


def _string(text: str) -> str:
    return '"' + "".join(f"\\U{ord(char):08X}" if not 0xD800 <= ord(char) <= 0xDFFF else "?" for char in text) + '"'


def _render(value: object, path: tuple[str | int, ...], line: int, at: dict[tuple[str | int, ...], int]) -> str:
    """The value in TOML, arrays over several lines; notes in `at` where each path stands."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_string(k)} = {_inline(v, (*path, k), line, at)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        text = "[ # ]\n"
        for i, item in enumerate(value):
            at[(*path, i)] = here = line + text.count("\n")
            text += _render(item, (*path, i), here, at) + ",\n"
        return text + "]"
    return _string(str(value))


def _inline(value: object, path: tuple[str | int, ...], line: int, at: dict[tuple[str | int, ...], int]) -> str:
    """The value on one line, as it must be in an inline table."""
    at[path] = line
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item, (*path, i), line, at) for i, item in enumerate(value)) + "]"
    return _render(value, path, line, at)


@given(st.dictionaries(_names.filter(str.isprintable), st.dictionaries(_names, _values, max_size=4), max_size=4))
def test_every_path_of_any_document_is_found_at_its_line(tables: dict[str, dict[str, object]]) -> None:
    text = "# [comment]\n"
    at: dict[tuple[str | int, ...], int] = {}
    for table, settings in tables.items():
        at[(table,)] = text.count("\n") + 1
        text += f"[{_string(table)}] # = \n"
        for name, value in settings.items():
            at[(table, name)] = line = text.count("\n") + 1
            text += f"{_string(name)} = {_render(value, (table, name), line, at)}\n"
    lines = Lines(text)
    assert {path: lines.of(path) for path in at} == at


@given(st.text() | st.text(alphabet="[]{}=,.\"'\\# \n\rab1"))
def test_text_that_is_no_toml_harms_nothing(text: str) -> None:
    assert 1 <= Lines(text).of(("a", "b")) <= text.count("\n") + 1


def test_hostile_depth_costs_neither_frames_nor_memory() -> None:
    assert Lines("x = " + "[" * 50_000 + "1" + "]" * 50_000 + "\ny = 1").of(("y",)) == 2
    assert Lines(".".join("a" * 50_000) + " = 1\ny = 1").of(("y",)) == 2
