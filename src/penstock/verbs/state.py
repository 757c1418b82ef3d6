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
    help="The server's data directory. Default: PENSTOCK_DATA_DIR, or what the configuration says, "
    f"or {Server().data_dir}.",
)


def file(given: Path | None = None) -> Path | None:
    """The configuration: the one that is given, or that PENSTOCK_CONFIG names."""
    return given or (Path(os.environ["PENSTOCK_CONFIG"]) if os.environ.get("PENSTOCK_CONFIG") else None)


def directory(given: str | None, config: Path | None) -> Path:
    """The data directory; it need not exist."""
    found = given or os.environ.get("PENSTOCK_DATA_DIR") or configured(config, "data_dir") or Server().data_dir
    return Path(found).expanduser()


def configured(config: Path | None, setting: str) -> str | None:
    """What [server] says. The rest is not checked: its secrets may be the server's alone to see."""
    if config is None:
        return None
    try:
        server = tomllib.loads(config.read_text(encoding="utf-8")).get("server")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"cannot read {config}, the configuration: {reason}. Give another --config, or correct it."
        raise click.ClickException(message) from error
    found = server.get(setting) if isinstance(server, dict) else None
    return found if isinstance(found, str) else None
