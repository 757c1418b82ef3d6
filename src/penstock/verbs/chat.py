"""`penstock chat`: asks a running server as any client does, and shows the answer as it comes.

It uses the standard library's client, which waits for a whole line of the stream: the server sends whole events.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click

from penstock.data_dir import DataDirError, read_secret
from penstock.verbs import state

CONNECT_LIMIT = 5.0
SILENCE_LIMIT = 600.0
FIRST_KEY = "first-key"
KEY_FIX = "set PENSTOCK_API_KEY, or give --api-key-file"

Message = dict[str, str]


class Refused(click.ClickException):
    """The server answered, with an error."""


@click.command()
@click.argument("text", nargs=-1)
@click.option("--model", default="gpt-5.4", show_default=True, help="The model to ask.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where the server is.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file that holds the key. Default: PENSTOCK_API_KEY, or the first key in the data directory.",
)
@state.option
def chat(text: tuple[str, ...], model: str, url: str, api_key_file: Path | None, data_dir: str | None) -> None:
    """Ask TEXT and show the answer as it comes; without TEXT, talk until Ctrl-D.

    What comes through a pipe is asked as a whole.

    \b
    Examples:
      penstock chat "What does Penstock do?"
      penstock chat --model local-small
      penstock chat --url https://llm.example.com < question.txt
    """
    server = _server(url)
    key = _key(api_key_file, data_dir)

    def ask(messages: list[Message]) -> str:
        return _show(_stream(server, key, model, messages))

    if text or not sys.stdin.isatty():
        question = " ".join(text) or sys.stdin.read()
        if not question.strip():
            raise click.UsageError("There is nothing to ask: give TEXT.")
        ask([{"role": "user", "content": question}])
    else:
        _talk(ask)


def _talk(ask: Callable[[list[Message]], str]) -> None:
    """Questions and answers, each with all before it; Ctrl-C stops an answer, Ctrl-D ends."""
    click.echo("Ctrl-C stops an answer, Ctrl-D ends.", err=True)
    messages: list[Message] = []
    while True:
        try:
            question = input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if not question.strip():
            continue
        messages.append({"role": "user", "content": question})
        try:
            messages.append({"role": "assistant", "content": ask(messages)})
        except KeyboardInterrupt:
            click.echo()
            messages.pop()
        except Refused as error:
            error.show()
            messages.pop()


def _show(pieces: Iterator[str]) -> str:
    terminal = sys.stdout.isatty()
    answer = ""
    for piece in pieces:
        answer += piece
        # what a model writes is not to steer the terminal
        shown = "".join(char for char in piece if char.isprintable() or char in "\n\t") if terminal else piece
        sys.stdout.write(shown)
        sys.stdout.flush()
    click.echo()
    return answer


def _stream(server: SplitResult, key: str, model: str, messages: list[Message]) -> Iterator[str]:
    """The pieces of the answer; raises ClickException for whatever is not a whole answer."""
    body = json.dumps({"model": model, "messages": messages, "stream": True})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    where = f"{server.scheme}://{server.netloc}"
    connection = _connection(server)
    try:
        connection.connect()
        connection.sock.settimeout(SILENCE_LIMIT)
        connection.request("POST", _path(server), body, headers)
        response = connection.getresponse()
        if response.status != 200:
            raise Refused(_refusal(response, where))
        yield from _pieces(response, where)
    except ConnectionRefusedError:
        fix = "start it with `penstock serve`, or give --url"
        raise click.ClickException(f"no server listens at {where}: {fix}.") from None
    except TimeoutError:
        raise click.ClickException(f"{where} does not answer in time.") from None
    except http.client.HTTPException as error:
        raise click.ClickException(f"{where} does not speak HTTP as expected ({type(error).__name__}).") from None
    except OSError as error:
        raise click.ClickException(f"the connection to {where} failed: {error.strerror or error}.") from None
    finally:
        connection.close()


def _pieces(response: http.client.HTTPResponse, where: str) -> Iterator[str]:
    finished = False
    while line := response.readline():
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            finished = True
            break
        try:
            event = json.loads(data)
        except ValueError:
            raise click.ClickException(f"{where} sent an event that is not JSON.") from None
        if isinstance(event, dict) and "error" in event:
            raise Refused(f"the answer broke off: {_message(event)}")
        yield from _content(event)
    if not finished:
        raise Refused("the answer was cut off before its end.")


def _content(event: Any) -> Iterator[str]:
    """The text in a chunk, of the first choice; a refusal is shown as well."""
    choices = event.get("choices") if isinstance(event, dict) else None
    for choice in choices or ():
        delta = choice.get("delta") or {}
        for field in ("content", "refusal"):
            if isinstance(delta.get(field), str):
                yield delta[field]


def _refusal(response: http.client.HTTPResponse, where: str) -> str:
    try:
        message = _message(json.loads(response.read(1024 * 1024)))
    except ValueError:
        message = f"no error envelope: is this a Penstock at {where}?"
    fix = f" Fix: {KEY_FIX}." if response.status == 401 else ""
    return f"{where} answered {response.status}: {message}{fix}"


def _message(envelope: Any) -> str:
    error = envelope.get("error") if isinstance(envelope, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else "without a message"


def _server(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise click.BadParameter(f"{url!r} is no address such as http://127.0.0.1:8000", param_hint="--url")
    return parts


def _connection(server: SplitResult) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if server.scheme == "https" else http.client.HTTPConnection
    assert server.hostname is not None
    return kind(server.hostname, server.port, timeout=CONNECT_LIMIT)


def _path(server: SplitResult) -> str:
    """The address is taken with and without the /v1 that SDKs want in theirs."""
    return f"{server.path.rstrip('/').removesuffix('/v1')}/v1/chat/completions"


def _key(file: Path | None, data_dir: str | None) -> str:
    try:
        if file is not None:
            key = read_secret(file)
            source = str(file)
        else:
            key, source = os.environ.get("PENSTOCK_API_KEY"), "PENSTOCK_API_KEY"
            if not key:
                path = state.directory(data_dir, state.file()) / FIRST_KEY
                key, source = read_secret(path), str(path)
    except DataDirError as error:
        raise click.ClickException(f"{error}. Fix: {KEY_FIX}.") from None
    if not key:
        raise click.ClickException(f"there is no API key in {source}: {KEY_FIX}.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise click.ClickException(f"what {source} holds is no API key: {KEY_FIX}.")
    return key
