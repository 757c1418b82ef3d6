"""An OpenAPI document made of the types of OpenAI's Python SDK, which may be newer than the one that OpenAI published.

The SDK's types are generated from that document, so that names, types, enumerations and what is required are OpenAI's,
of the SDK's date. Ranges and lengths are not in them.
"""

from __future__ import annotations

from typing import Any

from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    Model,
    completion_create_params,
    embedding_create_params,
)
from openai.types.chat import ChatCompletion
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import Response, response_create_params
from pydantic import TypeAdapter

POSTS: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (chat_create_params.CompletionCreateParams, ChatCompletion),
    "/v1/completions": (completion_create_params.CompletionCreateParams, Completion),
    "/v1/embeddings": (embedding_create_params.EmbeddingCreateParams, CreateEmbeddingResponse),
    "/v1/responses": (response_create_params.ResponseCreateParams, Response),
}


def sdk_document() -> dict[str, Any]:
    """The routes that Penstock serves, as the SDK calls them."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, (asked, answered) in POSTS.items():
        body = {"required": True, "content": {"application/json": {"schema": _schema(asked, "validation", schemas)}}}
        paths[path] = {"post": {"requestBody": body, "responses": _answers(answered, schemas)}}
    paths["/v1/models"] = {
        "get": {"responses": {"200": {"description": "The list.", "content": {"application/json": {}}}}}
    }
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/v1/models/{model}"] = {"get": {"parameters": [name], "responses": _answers(Model, schemas)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenAI, by its SDK", "version": "1"},
        "security": [{"key": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _answers(model: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(model, "serialization", schemas)}, "text/event-stream": {}}
    return {"200": {"description": "The answer.", "content": content}}


def _schema(kind: Any, mode: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a type. Its definitions go to `schemas`, by the names of the place that they are used in."""
    prefix = f"{mode}{len(schemas)}"
    schema = TypeAdapter(kind).json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}", mode=mode)
    for name, definition in schema.pop("$defs", {}).items():
        schemas[f"{prefix}{name}"] = definition
    return schema
