"""The data directory: made private, and the secrets kept in it as files only their owner can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


class DataDirError(Exception):
    """The directory or a file in it cannot be used; the message says what to do."""


def prepare(path: str) -> Path:
    """The directory at `path`, made with mode 0700; one that exists keeps its mode, for each file in it is private."""
    directory = Path(path).expanduser()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise DataDirError(f"cannot write to the data directory {directory}: choose another with --data-dir")
    return directory


def stage(path: Path, text: str) -> Path:
    """Write `text` beside `path`, mode 0600, under a name of its own, which is returned."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise _unusable(path, error) from error
    return staged


def secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in the file at `path`; when there is none, `make` one. Of several processes the first one's stays."""
    if (kept := read_secret(path)) is not None:
        return kept
    staged = stage(path, make())
    try:
        os.link(staged, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(path, error) from error
    finally:
        staged.unlink(missing_ok=True)
    kept = read_secret(path)
    if kept is None:
        raise DataDirError(f"{path} is empty: remove it, and the next start makes a new one")
    return kept


def read_secret(path: Path) -> str | None:
    """The file's text without white space around it; None when there is no such file, or nothing in it."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataDirError(f"cannot read {path}: {_reason(error)}") from error
    return text or None


def _unusable(path: Path, error: OSError) -> DataDirError:
    return DataDirError(f"cannot use {path}: {_reason(error)}; choose another data directory with --data-dir")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not text"
