"""Cuts an OpenAPI document down to the routes that Penstock serves: `python document.py SPEC OUT`.

It runs in the frameworks' environment, which can read YAML. A link from the list of models to the first of them is put
in: OpenAI's document has no links, and schemathesis could follow none. Where that document is behind the service it
describes, it is amended, so that a run that finds nothing new ends with status 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SERVED = {
    "/chat/completions": {"post", "get"},
    "/chat/completions/{completion_id}": {"get", "post", "delete"},
    "/chat/completions/{completion_id}/messages": {"get"},
    "/chat/completions/{completion}": {"get", "post", "delete"},
    "/chat/completions/{completion}/messages": {"get"},
    "/completions": {"post"},
    "/embeddings": {"post"},
    "/models": {"get"},
    "/models/{model}": {"get"},
    "/responses": {"post"},
}
OTHERS = {"/v1/penstock/explain": {"post"}, "/health": {"get"}, "/ready": {"get"}}
DONE = "[DONE]"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def cut(document: dict[str, Any]) -> dict[str, Any]:
    """The served routes and what they refer to. The path of OpenAI's server, /v1, becomes part of its routes."""
    kept: dict[str, Any] = {}
    for path, item in document["paths"].items():
        methods = SERVED.get(path.removeprefix("/v1"), OTHERS.get(path, set()))
        if methods:
            full = path if path.startswith("/v1/") or path in OTHERS else f"/v1{path}"
            kept[full] = {name: value for name, value in item.items() if name not in METHODS or name in methods}
    _link(kept)
    schemas = document.get("components", {}).get("schemas", {})
    for item in kept.values():
        for operation in item.values():
            _wrap_events(operation, schemas)
    smaller = {name: value for name, value in document.items() if name not in ("paths", "servers", "tags", "webhooks")}
    smaller = {name: value for name, value in smaller.items() if not name.startswith("x-")} | {"paths": kept}
    everything = document.get("components", {})
    schemes = everything.get("securitySchemes", {})
    components: dict[str, dict[str, Any]] = {"securitySchemes": schemes} if schemes else {}
    wanted = set(references(kept))
    while wanted:
        _, _, room, name = wanted.pop().split("/", 3)
        if name not in components.setdefault(room, {}):
            components[room][name] = everything[room][name]
            wanted |= set(references(everything[room][name]))
    amend(smaller)
    amend(components)
    return smaller | {"components": components}


def amend(part: Any) -> None:
    """Put in what OpenAI's document forgets: embeddings in base64, a fingerprint that is null, streamed completions,
    the usage of a response that is in progress, which is null."""
    for name, value in list(part.items()) if isinstance(part, dict) else enumerate(part):
        if name == "embedding" and isinstance(value, dict) and value.get("type") == "array":
            part[name] = {"anyOf": [value, {"type": "string"}]}
        elif name == "system_fingerprint" and isinstance(value, dict) and value.get("type") == "string":
            part[name] = {"type": ["string", "null"]}
        elif name == "usage" and isinstance(value, dict) and value.get("$ref", "").endswith("/ResponseUsage"):
            part[name] = {"anyOf": [value, {"type": "null"}]}
        elif name == "/v1/completions":
            value["post"]["responses"]["200"]["content"].setdefault("text/event-stream", {})
        elif isinstance(value, dict | list):
            amend(value)


def _link(paths: dict[str, Any]) -> None:
    if paths.keys() >= {"/v1/models", "/v1/models/{model}"}:
        one = paths["/v1/models/{model}"]["get"]
        target = {"operationId": one.setdefault("operationId", "getModel")}
        link = target | {"parameters": {"model": "$response.body#/data/0/id"}}
        paths["/v1/models"]["get"]["responses"]["200"]["links"] = {"model": link}


def _wrap_events(operation: Any, schemas: dict[str, Any]) -> None:
    """Where a stream's schema is that of what its events carry, as in OpenAI's document, say so in JSON Schema."""
    content = operation["responses"].get("200", {}).get("content", {}) if isinstance(operation, dict) else {}
    carried = content.get("text/event-stream", {}).get("schema")
    if carried is None:
        return
    named = schemas.get(carried.get("$ref", "").rpartition("/")[2], carried)
    if "data" not in named.get("properties", ()):
        data = [{"const": DONE}, {"type": "string", "contentMediaType": "application/json", "contentSchema": carried}]
        content["text/event-stream"]["schema"] = {"type": "object", "properties": {"data": {"anyOf": data}}}


def references(part: Any) -> Iterator[str]:
    """Every reference to a component, however deep."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


if __name__ == "__main__":
    found = yaml.safe_load(Path(sys.argv[1]).read_text("utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(cut(found), default=str), "utf-8")
