"""Requests to the endpoints beside chat completions: embeddings, legacy completions and responses.

They are relayed to servers that answer them, so a body is read only for what the gateway acts on (who is to answer,
whether it streams, whether usage was asked for) and for what is certain to be refused. All else is carried byte for
byte and is the upstream's to judge. A fault raises InvalidRequest with OpenAI's `param` and `code`; nothing else is
raised, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from penstock.errors import InvalidRequest
from penstock.wire.chat import TOP_LEVEL_NAMES, unknown_names
from penstock.wire.diagnose import misshapen
from penstock.wire.members import nested_too_deeply, not_json, refuse_repeats, split
from penstock.wire.params import StreamOptions
from penstock.wire.rules import model_name, not_empty

Endpoint = Literal["embeddings", "completions", "responses"]

INPUTS = 2048  # the most texts, tokens or lists of tokens of one request, by OpenAI's document

_NULL = msgspec.Raw(b"null")
_STRING = msgspec.json.Decoder(str)


class NeighbourRequest(msgspec.Struct, frozen=True, gc=False):
    """What was asked; `body` is what the client sent. `fields` are the top-level names whose value is not null.

    `include_usage` is what the client asked, of the endpoints that report the usage of a stream only then. `user` is
    None where it is no string, which is the upstream's to judge.
    """

    endpoint: Endpoint
    body: bytes
    model: str
    fields: frozenset[str]
    stream: bool = False
    include_usage: bool = False
    user: str | None = None


class _Embeddings(msgspec.Struct, frozen=True, gc=False):
    model: str
    input: msgspec.Raw


class _Completions(msgspec.Struct, frozen=True, gc=False):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class _Responses(msgspec.Struct, frozen=True, gc=False):
    model: str
    stream: bool | None = None
    background: bool | None = None


_Params = TypeVar("_Params", _Embeddings, _Completions, _Responses)

_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_COMPLETIONS = msgspec.json.Decoder(_Completions)
_RESPONSES = msgspec.json.Decoder(_Responses)
# The first items of an array, and one more than there may be: what comes after them is skipped over, so that an array
# of millions costs no more memory than its bytes.
_ITEMS = msgspec.json.Decoder(
    msgspec.defstruct("_Items", [(f"item{n}", msgspec.Raw, None) for n in range(INPUTS + 1)], array_like=True)
)
_INPUTS_BEGIN = b'"[-0123456789'
_STREAM_OPTIONS = frozenset(StreamOptions.__struct_fields__)


def decode_embeddings(body: bytes) -> NeighbourRequest:
    """What to embed: a text, a list of texts, a list of tokens or a list of such lists."""
    params, members = _read(body, _EMBEDDINGS)
    _check_input(params.input)
    return NeighbourRequest("embeddings", body, params.model, _fields(members), user=_user(members))


def decode_completion(body: bytes) -> NeighbourRequest:
    """A text to complete, as before there were messages."""
    params, members = _read(body, _COMPLETIONS)
    options = params.stream_options
    if options is not None:
        if not params.stream:
            raise InvalidRequest(
                "Invalid value for 'stream_options': 'stream_options' is only allowed when 'stream' is enabled.",
                param="stream_options",
            )
        raw = bytes(members["stream_options"])
        given = split(raw)
        refuse_repeats(raw, given, "stream_options.")
        unknown_names(given, _STREAM_OPTIONS)
    include_usage = options is not None and options.include_usage is True
    stream = params.stream is True
    return NeighbourRequest("completions", body, params.model, _fields(members), stream, include_usage, _user(members))


def decode_response(body: bytes) -> NeighbourRequest:
    """A response to make. Its usage is always reported, so that it need not be asked for."""
    params, members = _read(body, _RESPONSES)
    if params.background:
        # It would go on after the caller has left, unaccounted, and could not be fetched here.
        raise InvalidRequest(
            "Unsupported parameter: 'background' is not supported by this gateway, which keeps no responses to be "
            "fetched later. Use 'stream' for long answers.",
            param="background",
            code="unsupported_parameter",
        )
    return NeighbourRequest(
        "responses", body, params.model, _fields(members), params.stream is True, user=_user(members)
    )


DECODERS: dict[Endpoint, Callable[[bytes], NeighbourRequest]] = {
    "embeddings": decode_embeddings,
    "completions": decode_completion,
    "responses": decode_response,
}


def _read(body: bytes, decoder: msgspec.json.Decoder[_Params]) -> tuple[_Params, dict[str, msgspec.Raw]]:
    """The parameters that we act on, and every member."""
    try:
        members = split(body)
        if len(members) > TOP_LEVEL_NAMES:
            raise InvalidRequest(f"The request has more than {TOP_LEVEL_NAMES} parameters.")
        params = decoder.decode(body)
        if not body.isascii():
            body.decode()
    except msgspec.ValidationError as error:
        raise misshapen(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json() from error
    except RecursionError as error:
        raise nested_too_deeply() from error
    refuse_repeats(body, members)
    unknown_names(members, frozenset(type(params).__struct_fields__))
    model_name(params.model)
    return params, members


def _check_input(given: msgspec.Raw) -> None:
    first = bytes(memoryview(given)[:1])
    if first != b"[":
        if first != b'"':
            raise InvalidRequest(
                "Invalid type for 'input': expected a string or an array.", param="input", code="invalid_type"
            )
        if len(memoryview(given)) == 2:
            not_empty("input", "")
        return
    items = [item for item in msgspec.structs.astuple(_ITEMS.decode(given)) if item is not None]
    if not items:
        raise InvalidRequest(
            "Invalid 'input': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="input",
            code="empty_array",
        )
    if len(items) > INPUTS:
        raise InvalidRequest(
            f"Invalid 'input': array too long. Expected an array with maximum length {INPUTS}, "
            "but got a longer array instead.",
            param="input",
            code="array_above_max_length",
        )
    for index, item in enumerate(items):
        if bytes(memoryview(item)[:1]) not in _INPUTS_BEGIN:
            raise InvalidRequest(
                f"Invalid type for 'input[{index}]': expected a string, a token or an array of tokens.",
                param=f"input[{index}]",
                code="invalid_type",
            )


def _fields(members: dict[str, msgspec.Raw]) -> frozenset[str]:
    return frozenset(name for name, value in members.items() if value != _NULL)


def _user(members: dict[str, msgspec.Raw]) -> str | None:
    found = members.get("user")
    if found is None or bytes(memoryview(found)[:1]) != b'"':
        return None
    try:
        return _STRING.decode(found)
    except msgspec.DecodeError:
        return None
