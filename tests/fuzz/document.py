"""Cuts an OpenAPI document down to the routes that Penstock serves: `python document.py SPEC OUT`.

It runs in the frameworks' environment, which can read YAML. A link from the list of models to the first of them is put
in: OpenAI's document has no links, and schemathesis could follow none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SERVED = {
    "/chat/completions": {"post"},
    "/completions": {"post"},
    "/embeddings": {"post"},
    "/models": {"get"},
    "/models/{model}": {"get"},
    "/responses": {"post"},
}
OTHERS = {"/health": {"get"}, "/ready": {"get"}}
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
    return smaller | {"components": components}


def _link(paths: dict[str, Any]) -> None:
    if paths.keys() >= {"/v1/models", "/v1/models/{model}"}:
        one = paths["/v1/models/{model}"]["get"]
        target = {"operationId": one.setdefault("operationId", "getModel")}
        link = target | {"parameters": {"model": "$response.body#/data/0/id"}}
        paths["/v1/models"]["get"]["responses"]["200"]["links"] = {"model": link}


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
