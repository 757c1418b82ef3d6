"""What a plain answer does where a request insists: the call that it forces, or the least JSON that its schema allows.

A script's own answers are not touched. Only what is forced is obeyed (`required`, a named tool, a format): what a
model may choose, this one does not choose. A token is four letters of a call's arguments or eight of a JSON text.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.fake_upstream.script import Answer, ToolCall

_LETTERS_OF_A_CALL = 4
_LETTERS_OF_TEXT = 8
_DEPTH = 32  # of a schema that refers to itself
_LONGEST = 1000  # letters or items, whatever a schema demands

Object = dict[str, Any]


def answer(body: bytes) -> Answer:
    """The plain answer to a chat request, whatever is in it: a wish that makes no sense is not obeyed."""
    data = msgspec.json.decode(body)
    try:
        return _wished(data)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return Answer()


def _wished(data: Object) -> Answer:
    limit = data.get("max_completion_tokens") or data.get("max_tokens")
    call = _forced(data)
    if call is not None:
        return _calling(call, limit)
    text = _formatted(data.get("response_format"))
    if text is None:
        return Answer()
    pieces = tuple(text[start : start + _LETTERS_OF_TEXT] for start in range(0, len(text), _LETTERS_OF_TEXT))
    if isinstance(limit, int) and limit < len(pieces):
        return Answer(chunks=pieces[:limit], finish_reason="length")
    return Answer(chunks=pieces)


def _calling(call: ToolCall, limit: Any) -> Answer:
    letters = limit * _LETTERS_OF_A_CALL if isinstance(limit, int) else len(call.arguments)
    if letters >= len(call.arguments):
        return Answer(tool_calls=(call,))
    return Answer(
        tool_calls=(msgspec.structs.replace(call, arguments=call.arguments[:letters]),), finish_reason="length"
    )


def _forced(data: Object) -> ToolCall | None:
    """The call that the request forces."""
    legacy = data.get("function_call")
    if isinstance(legacy, dict):
        return _call(legacy.get("name"), data.get("functions"), "legacy")
    choice = data.get("tool_choice")
    tools = {_name(tool): tool for tool in data.get("tools") or ()}
    if not tools or choice in (None, "none", "auto"):
        return None
    wanted: str | None = next(iter(tools))
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice["allowed_tools"]
        wanted = _name(allowed["tools"][0]) if allowed.get("mode") == "required" else None
    elif isinstance(choice, dict):
        wanted = _name(choice)
    tool = tools.get(wanted)
    if tool is None:
        return None
    if tool.get("type") == "custom":
        return ToolCall(name=wanted, arguments="text", kind="custom")
    return _call(wanted, [tool["function"]], "function")


def _name(tool: Object) -> str | None:
    found = (tool.get("function") or tool.get("custom") or tool).get("name")
    return found if isinstance(found, str) else None


def _call(name: str | None, functions: Any, kind: Any) -> ToolCall | None:
    for function in functions or ():
        if function.get("name") == name:
            schema = function.get("parameters") or {"type": "object"}
            return ToolCall(name=name, arguments=_json(instance(schema, schema)), kind=kind)
    return None


def _formatted(wanted: Any) -> str | None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return _json({"answer": "text"})
    if kind != "json_schema":
        return None
    schema = wanted["json_schema"].get("schema") or {"type": "object"}
    return _json(instance(schema, schema))


def instance(schema: Any, root: Object, depth: int = 0) -> Any:
    """The least value that keeps a schema, as far as schemas are simple."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return None
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return instance(root.get("$defs", {}).get(name), root, depth + 1)
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    if schema.get("anyOf"):
        return instance(schema["anyOf"][0], root, depth + 1)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: instance(properties.get(name), root, depth + 1) for name in schema.get("required") or ()}
    if kind == "array":
        return [instance(schema.get("items"), root, depth + 1)] * _at_most(schema.get("minItems"))
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"string": "text".ljust(_at_most(schema.get("minLength"))), "boolean": False}.get(kind or "string")


def _at_most(length: Any) -> int:
    return int(min(length or 0, _LONGEST))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
