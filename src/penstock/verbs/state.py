"""Where the state is that a verb shares with the server: the data directory, found as the server finds it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from penstock.config import Server

option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--data-dir",
    metavar="DIR",
    help="The server's data directory. Default: PENSTOCK_DATA_DIR, or what the file that PENSTOCK_CONFIG names says, "
    f"or {Server().data_dir}.",
)


def directory(given: str | None) -> Path:
    """The data directory; it need not exist."""
    return Path(given or os.environ.get("PENSTOCK_DATA_DIR") or _configured() or Server().data_dir).expanduser()


def _configured() -> str | None:
    """What the configuration says. The rest of it is not checked: its secrets may be the server's alone to see."""
    path = os.environ.get("PENSTOCK_CONFIG")
    if not path:
        return None
    try:
        server = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("server")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"cannot read {path}, which PENSTOCK_CONFIG names: {reason}. Give --data-dir, or correct it."
        raise click.ClickException(message) from error
    found = server.get("data_dir") if isinstance(server, dict) else None
    return found if isinstance(found, str) else None
