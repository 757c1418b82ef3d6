"""``penstock fake-upstream``: serves until Ctrl-C, and logs a JSON line per request."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from penstock.fake_upstream.script import Script, ScriptError, load
from penstock.fake_upstream.seen import Seen
from penstock.fake_upstream.server import FakeUpstream, split_address
from penstock.fake_upstream.strict import PROFILES, mask


def log_line(seen: Seen, ended_at: datetime) -> bytes:
    """What is logged of a request: never its key, never a prompt."""
    key = (seen.header("authorization") or "").rpartition(" ")[2]
    duration = 0.0 if seen.ended_at is None else seen.ended_at - seen.started_at
    entry = {
        "time": ended_at.isoformat(timespec="milliseconds"),
        "method": seen.method,
        "path": seen.path,
        "model": seen.model,
        "stream": seen.stream,
        "status": seen.status,
        "request_bytes": len(seen.body),
        "sent_bytes": seen.sent_bytes,
        "duration_ms": round(duration * 1000, 1),
        "ended": seen.ended,
        "connection": seen.connection,
        "key": mask(key) if key else None,
    }
    return msgspec.json.encode(entry) + b"\n"


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.startswith("unix:"):
        try:
            split_address(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return value


def _script(context: click.Context, parameter: click.Parameter, value: Path | None) -> Script:
    try:
        return Script() if value is None else load(value)
    except ScriptError as error:
        raise click.BadParameter(str(error)) from error


async def _serve(upstream: FakeUpstream) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with upstream:
        place = upstream.base_url if upstream.uds is None else f"unix:{upstream.uds}"
        click.echo(f"fake upstream: {place} (Ctrl-C ends it)", err=True)
        await stop.wait()


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:9000",
    show_default=True,
    callback=_address,
    metavar="HOST:PORT",
    help="Where clients connect; also unix:/path.",
)
@click.option(
    "--script",
    callback=_script,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Answers by model name, in TOML or JSON. Default: a sentence, or what the model's name asks for.",
)
@click.option("--strict", type=click.Choice(tuple(PROFILES)), help="Enforce the published rules of this model.")
@click.option(
    "--api-key", "keys", multiple=True, metavar="TOKEN", help="A bearer token to accept; repeatable. Default: any."
)
@click.option(
    "--log", type=click.File("ab", lazy=False), default="-", metavar="FILE", help="The log. Default: standard output."
)
def fake_upstream(listen: str, script: Script, strict: str | None, keys: tuple[str, ...], log: BinaryIO) -> None:
    """Serve a scripted OpenAI-compatible upstream, for tests, until Ctrl-C.

    It answers every model; a name such as fake-status-429-after-2 says how. What scripts and names can ask for is in
    docs/fake-upstream.md.

    \b
    Examples:
      penstock fake-upstream --listen 127.0.0.1:9000
      penstock fake-upstream --script outage.toml
      penstock fake-upstream --strict gpt-5.4 --api-key sk-test
    """

    def on_end(seen: Seen) -> None:
        log.write(log_line(seen, datetime.fromtimestamp(time.time(), UTC)))
        log.flush()

    upstream = FakeUpstream(script, listen=listen, strict_profile=strict, keys=keys, on_end=on_end, remember=False)
    try:
        asyncio.run(_serve(upstream))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error.strerror or error}") from error
