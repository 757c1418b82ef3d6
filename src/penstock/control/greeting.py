"""The start-up text: what is served, where, by which target, and how to make the first call."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from penstock import __version__
from penstock.config import Address, Config, summary

MODEL = "gpt-5.4"  # the name that every example asks for
BUILTIN = "builtin"


class Place(msgspec.Struct, frozen=True):
    """Where it really listens, and with which key it can be asked; None where that is not to be shown."""

    listen: Address
    admin: Address
    key_line: str
    first_key: str | None = None


def greeting(config: Config, source: str, place: Place) -> str:
    """`source`: where the configuration came from. Ends in a line feed."""
    server = msgspec.structs.replace(config.server, listen=_text(place.listen), admin_listen=_text(place.admin))
    parts = [
        f"Penstock {__version__} serves, configured by {source}:",
        summary(msgspec.structs.replace(config, server=server)),
    ]
    parts += [f"Warning: {warning.render(source)}" for warning in config.warnings]
    if any(upstream.settings.get("model") == BUILTIN for upstream in config.providers.values()):
        parts.append(
            "The built-in model is a small demonstration, which says so in each answer's `model`.\n"
            "For a real one: set OPENAI_API_KEY, or give --model FILE.gguf or --config FILE."
        )
    parts.append(place.key_line)
    if place.first_key is not None:
        parts.append(f"Try it:\n\n  {curl(config, place.listen, place.first_key)}")
    return "\n\n".join(parts) + "\n"


def first_key_line(key: str) -> str:
    return f"Your first API key, shown this once:\n\n  {key}"


def first_key_file_line(path: Path) -> str:
    return f"The first API key is in {path}, readable by its owner only: move it to where it is used."


def key_line(from_environment: bool) -> str:
    if from_environment:
        return "API key: the one in PENSTOCK_API_KEY, and those that `penstock keys create` made."
    return "API keys: `penstock keys create --name NAME` makes one, `penstock keys list` shows them."


def curl(config: Config, listen: Address, key: str) -> str:
    """One line that works when pasted into a shell."""
    body = json.dumps({"model": _model(config), "messages": [{"role": "user", "content": "Hello"}]})
    scheme = "https" if config.server.tls_cert and listen.unix is None else "http"
    if listen.unix is not None:
        where = f"--unix-socket '{listen.unix}' http://localhost"
    else:
        where = f"{scheme}://{_text(Address(_reachable(listen.host), listen.port))}"
    head = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    return f"curl {where}/v1/chat/completions {head} -d '{body}'"


def _model(config: Config) -> str:
    """The examples' model if it is served, else the first that has a whole name."""
    whole = [name for name in config.models if not name.endswith("*")]
    served = MODEL in whole or any(
        name.endswith("*") and MODEL.startswith(name.removesuffix("*")) for name in config.models
    )
    return MODEL if served or not whole else whole[0]


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _text(address: Address) -> str:
    if address.unix is not None:
        return f"unix:{address.unix}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
