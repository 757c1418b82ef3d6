"""`penstock serve`: configuration, environment and options in, a running server out."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import click
import uvloop

from penstock.config import Config, ConfigError, default, override
from penstock.control import parent
from penstock.control.reloading import ConfigFile
from penstock.verbs.check_config import read


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration. Default: the file that PENSTOCK_CONFIG names; without one, what the environment offers.",
)
@click.option("--listen", metavar="HOST:PORT", help="Where clients connect; also unix:/path. Default: 127.0.0.1:8000.")
@click.option("--admin-listen", metavar="HOST:PORT", help="Where the control plane listens. Default: 127.0.0.1:8001.")
@click.option("--workers", type=int, metavar="N", help="Processes that serve clients. Default: 1.")
@click.option("--data-dir", metavar="DIR", help="Where keys are kept. Default: ~/.local/share/penstock.")
@click.option("--model", metavar="GGUF", help="Serve the weights in this file, without a configuration.")
def serve(
    file: Path | None,
    listen: str | None,
    admin_listen: str | None,
    workers: int | None,
    data_dir: str | None,
    model: str | None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C, which let answers in progress end first.

    Without a configuration, every model goes to OpenAI if OPENAI_API_KEY is set; else gpt-5.4 is a small built-in
    demonstration model. The first start makes an API key.

    The configuration is read again when the file changes, and on SIGHUP. One with errors is not applied: they go to the
    log, and the old one serves on.

    \b
    Examples:
      penstock serve
      penstock serve --model ./qwen3-8b.gguf
      penstock serve --config /etc/penstock/penstock.toml --workers 2
      PENSTOCK_API_KEY=sk-a-key-of-yours penstock serve --listen 0.0.0.0:8000
    """
    if file is None and os.environ.get("PENSTOCK_CONFIG"):
        file = Path(os.environ["PENSTOCK_CONFIG"])
    if file is not None and model is not None:
        raise click.UsageError("--model is for serving without a configuration: name the weights in the file instead.")
    with_options = functools.partial(
        override, listen=listen, admin_listen=admin_listen, workers=workers, data_dir=data_dir
    )
    try:
        watched = None if file is None else ConfigFile(file, functools.partial(_read, file, with_options))
        config = with_options(default(os.environ, model)) if watched is None else watched.read()
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    _log_to_stderr()
    raise SystemExit(uvloop.run(parent.serve(config, _source(file, model), file=watched)))


def _log_to_stderr() -> None:
    """In the form that workers write: a line with the time, in UTC."""
    form = logging.Formatter("%(asctime)s penstock: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("penstock").setLevel(logging.INFO)


def _read(file: Path, with_options: Callable[[Config], Config]) -> Config:
    return with_options(read(file))


def _source(file: Path | None, model: str | None) -> str:
    """Where the configuration came from."""
    if file is not None:
        return str(file)
    if model is not None:
        return f"--model {model}"
    return "OPENAI_API_KEY" if os.environ.get("OPENAI_API_KEY") else "no file and no OPENAI_API_KEY"
