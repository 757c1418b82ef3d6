"""`penstock serve`: configuration, environment and options in, a running server out."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import click
import uvloop

from penstock.config import Config, ConfigError, default, load, override
from penstock.control import parent
from penstock.providers.registry import SETTINGS


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
    try:
        config, source = _configuration(file, model)
        config = override(config, listen=listen, admin_listen=admin_listen, workers=workers, data_dir=data_dir)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    _log_to_stderr()
    raise SystemExit(uvloop.run(parent.serve(config, source)))


def _log_to_stderr() -> None:
    """In the form that workers write: a line with the time, in UTC."""
    form = logging.Formatter("%(asctime)s penstock: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("penstock").setLevel(logging.INFO)


def _configuration(file: Path | None, model: str | None) -> tuple[Config, str]:
    """The configuration, and where it came from."""
    if file is not None:
        return load(file, os.environ, SETTINGS), str(file)
    config = default(os.environ, model)
    if model is not None:
        return config, f"--model {model}"
    return config, "OPENAI_API_KEY" if os.environ.get("OPENAI_API_KEY") else "no file and no OPENAI_API_KEY"
