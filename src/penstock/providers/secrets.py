"""Secrets by reference: ``env:NAME``, ``file:/path`` or the value itself; files are read again when they change."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

MAX_SECRET_BYTES = 64 * 1024

_log = logging.getLogger(__name__)

# What may stand in a header field's value without quoting: RFC 9110, section 5.5, less obs-text and tabs.
_FIT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class Secret:
    """One secret, fit for a header field's value.

    `where` names the setting in messages, which never hold the value. A file that vanishes, becomes unreadable or
    is found empty or unfit after the start leaves the last good value in force, and is said in the log once.
    """

    __slots__ = ("_failing", "_path", "_stamp", "value", "where")

    def __init__(self, reference: str, where: str, environ: Mapping[str, str] = os.environ) -> None:
        self.where = where
        self.value = ""
        self._path: str | None = None
        self._stamp: tuple[int, ...] = ()
        self._failing = False
        kind, _, name = reference.partition(":")
        if kind == "file":
            self._path = name
            try:
                self.value, self._stamp = self._read(name)
            except OSError as error:
                raise ValueError(f"{where}: cannot read {name}: {error.strerror}") from error
        elif kind == "env":
            if name not in environ:
                raise ValueError(f"{where}: the environment variable {name} is not set")
            self.value = self._checked(environ[name].strip(), f"the environment variable {name}")
        else:
            self.value = self._checked(reference, "the value")

    def refresh(self) -> bool:
        """Read the file again if it changed; whether there is a new value."""
        if self._path is None:
            return False
        try:
            if _stamp(os.stat(self._path)) == self._stamp:
                self._failing = False
                return False
            value, self._stamp = self._read(self._path)
        except (OSError, ValueError) as error:
            if not self._failing:
                _log.warning("%s: %s; the last value stays in force", self.where, error)
            self._failing = True
            return False
        self._failing = False
        changed = value != self.value
        self.value = value
        return changed

    def _read(self, path: str) -> tuple[str, tuple[int, ...]]:
        with open(path, "rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            content = file.read(MAX_SECRET_BYTES + 1)
        if len(content) > MAX_SECRET_BYTES:
            raise ValueError(f"{self.where}: {path} is larger than {MAX_SECRET_BYTES} bytes")
        return self._checked(content.decode("latin-1").strip(), path), stamp

    def _checked(self, value: str, source: str) -> str:
        if not value:
            raise ValueError(f"{self.where}: {source} is empty")
        if not _FIT.fullmatch(value):
            raise ValueError(f"{self.where}: {source} holds a control or non-ASCII character, or a space at an end")
        return value


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mtime_ns, status.st_ino, status.st_size)
