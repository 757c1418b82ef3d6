"""Finds the line of every key in a TOML document, which the standard parser does not tell.

The document has been accepted by `tomllib` before it comes here, so this scanner judges nothing: it cuts the text
into tokens, follows table headers, dotted keys, arrays and inline tables, and notes the line at which each path
was first named. It keeps its own stack, so that deep nesting costs memory and not frames. On text that is not
TOML it notes something useless and ends; it never raises and never loops. `Lines.of` answers for a path that was
not named, such as a setting that is missing, with the line of the nearest table around it.
"""

from __future__ import annotations

import re
import tomllib

from penstock.config.problems import Path

_TOKEN = re.compile(
    r"""
      (?P<newline>\n)
    | (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<string>\"\"\"(?:[^\\]|\\.)*?\"\"\"\"{0,2}|'''.*?''''{0,2}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
    | (?P<mark>[\[\]{}=,.])
    | (?P<bare>[^\s\[\]{}=,."'#]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_DEPTH = 16  # names deeper than any setting stands are not noted, so that hostile keys cost no memory


class _Inside:
    """A value that is being read: an inline table, or an array whose next element is number `index`."""

    __slots__ = ("index", "path")

    def __init__(self, path: Path, index: int | None) -> None:
        self.path = path
        self.index = index


class Lines:
    """The line of each path that `text` names, counted from 1."""

    def __init__(self, text: str) -> None:
        self._at: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}  # arrays of tables: the index of the last element
        self._table: Path = ()
        self._key: list[str] = []
        self._header: list[str] | None = None  # the parts of a table header while it is read
        self._header_brackets = 0
        self._stack: list[_Inside] = []
        self._value: Path | None = None  # the path whose value is being read
        self._line = 1
        for token in _TOKEN.finditer(text):
            kind = token.lastgroup or ""
            if kind != "blank":
                self._take(kind, token.group())
            self._line += token.group().count("\n")

    def of(self, path: Path) -> int:
        """The line of `path`, or of the nearest table around it that the document names; 1 if there is none."""
        for size in range(min(len(path), _DEPTH), 0, -1):
            line = self._at.get(path[:size])
            if line is not None:
                return line
        return 1

    def _take(self, kind: str, text: str) -> None:
        if kind == "newline":
            if not self._stack:
                self._value, self._key = None, []
        elif self._header is not None:
            self._take_header(self._header, kind, text)
        elif self._stack and self._stack[-1].index is not None:
            self._take_element(text)
        elif self._value is not None and not self._stack:
            self._open(text, self._value)
        elif kind == "mark" and text == "[" and not self._stack and not self._key:
            self._header, self._header_brackets = [], 1
        else:
            self._take_pair(kind, text)

    def _take_header(self, header: list[str], kind: str, text: str) -> None:
        if kind in ("bare", "string"):
            header.append(_name(kind, text))
        elif text == "[":
            self._header_brackets += 1
        elif text == "]":
            path: Path = ()
            for name in header[: min(len(header), _DEPTH) - 1]:
                path = self._within((*path, name))
            self._table = (*path, *header[-1:])[:_DEPTH]
            if self._header_brackets > 1:
                self._arrays[self._table] = self._arrays.get(self._table, -1) + 1
                self._note(self._table)
                self._table = self._within(self._table)
            self._note(self._table)
            self._header = None
            self._value = self._table  # the second bracket of an array's header is not a key

    def _within(self, path: Path) -> Path:
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _take_pair(self, kind: str, text: str) -> None:
        """One token of `key = value`, at the top or in an inline table."""
        inside = self._stack[-1] if self._stack else None
        if kind in ("bare", "string") and self._value is None:
            self._key.append(_name(kind, text))
        elif text == "=" and self._value is None:
            self._value = (*(inside.path if inside else self._table), *self._key)[:_DEPTH]
            self._note(self._value)
            self._key = []
        elif text == "}" and inside:
            self._close()
        elif text == "," and inside:
            self._value, self._key = None, []
        elif self._value is not None:
            self._open(text, self._value)

    def _take_element(self, text: str) -> None:
        """One token of an array."""
        inside = self._stack[-1]
        if text == "]":
            self._close()
        elif text == ",":
            inside.index = (inside.index or 0) + 1
        else:
            path = (*inside.path, inside.index or 0)[:_DEPTH]
            self._note(path)
            self._open(text, path)

    def _open(self, text: str, path: Path) -> None:
        if text in ("[", "{"):
            self._stack.append(_Inside(path, 0 if text == "[" else None))
            self._value, self._key = None, []

    def _close(self) -> None:
        """The innermost array or inline table ends; what is around it is again in the middle of a value."""
        self._value, self._key = self._stack.pop().path, []

    def _note(self, path: Path) -> None:
        for size in range(len(path), 0, -1):
            if path[:size] in self._at:
                break
            self._at[path[:size]] = self._line


def _name(kind: str, text: str) -> str:
    """A key as it is meant: quotes and escapes undone."""
    if kind == "bare":
        return text
    try:
        return next(iter(tomllib.loads(f"{text} = 0")), text)
    except ValueError:
        return text
