"""`penstock check-config`: whether a configuration can be served, what it would serve, or all that is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from penstock.config import Config, ConfigError, load, summary
from penstock.providers.registry import SETTINGS


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), envvar="PENSTOCK_CONFIG", required=False)
def check_config(file: Path | None) -> None:
    """Check FILE, or the file that PENSTOCK_CONFIG names, and say what it would serve.

    Nothing is started and nothing is called. Every problem is shown with its line and with what to do; files and
    environment variables that the configuration names are looked at, so check as the user that will serve.

    Exit status: 0 when it can be served, 1 when it cannot.

    \b
    Example:
      penstock check-config /etc/penstock/penstock.toml
    """
    if file is None:
        raise click.UsageError("Give FILE, or set PENSTOCK_CONFIG.")
    try:
        config = read(file)
    except ConfigError as error:
        click.echo(str(error), err=True)
        count = len(error.problems)
        click.echo(f"{file} cannot be served: {count} problem{'' if count == 1 else 's'}.", err=True)
        raise SystemExit(1) from None
    for warning in config.warnings:
        click.echo(f"Warning: {warning.render(str(file))}", err=True)
    click.echo(f"{file} can be served.\n\n{summary(config)}")


def read(file: Path) -> Config:
    """What the file says. Raises ConfigError with every problem."""
    return load(file, os.environ, SETTINGS)
