"""What is wrong with a configuration: where, at which line, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import msgspec

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


class Problem(msgspec.Struct, frozen=True):
    """One fault. `where` is a dotted path in the file, or an option or variable outside it, whose `line` is None.

    It is empty where the whole file is to blame.
    """

    where: str
    line: int | None
    message: str
    fix: str

    def render(self, file: str = "") -> str:
        """One line of text, whatever bytes the configuration held."""
        place = f"{file or 'line'}:{self.line}" if self.line is not None else "" if self.where else file
        text = ": ".join(part for part in (place, self.where, self.message) if part)
        return _printable(f"{text}. Fix: {self.fix}{'' if self.fix.endswith('?') else '.'}")


class ConfigError(Exception):
    """The configuration cannot be served. `problems` holds every fault that was found, in order of lines."""

    def __init__(self, problems: Iterable[Problem], file: str = "") -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        self.file = file
        super().__init__("\n".join(problem.render(file) for problem in self.problems))


def dotted(path: Path) -> str:
    """The path as TOML writes it: ``models."gpt-5.4".targets[0].provider``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.match(part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            text += f".{name}" if text else name
    return text


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A fix for a name that is not known: the likely one, or else what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"{otherwise}: {', '.join(names)}" if names else otherwise


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
