"""A chat completion request: decoded and validated once, for every backend alike.

The body is read twice in C: split into its top-level members, which tells what is there, unknown or repeated, and
decoded into `Params`, which tells whether every documented parameter has its type. Then the rules of the parameters
that are there are run. A fault raises InvalidRequest with OpenAI's `param` and `code`; nothing else is raised, whatever
the bytes. The bytes themselves are kept and are what an upstream is sent.
"""

from __future__ import annotations

import functools

import msgspec

from penstock.errors import InvalidRequest
from penstock.wire.diagnose import excerpt, misshapen
from penstock.wire.members import compact_size, nested_too_deeply, not_json, refuse_repeats, split
from penstock.wire.params import Edit, Params, StreamOptions
from penstock.wire.request import ChatRequest as ChatRequest
from penstock.wire.rules import INT32_MAX, RULES, Rule, check_metadata, integer

TOP_LEVEL_NAMES = 256  # far above what is documented, and what bounds the work on a body made of names

_PARAMS = msgspec.json.Decoder(Params)
_METADATA = msgspec.json.Decoder(Edit)
_NULL = msgspec.Raw(b"null")
_KNOWN = frozenset(Params.__struct_fields__)
# With none but these a request is made of its first ten members, the others being what they are by default.
_FIRST = frozenset(
    ("model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "stop", "temperature")
)
_STREAM_OPTIONS = frozenset(StreamOptions.__struct_fields__)


def decode_chat(body: bytes) -> ChatRequest:
    """The request that `body` is. Raises InvalidRequest."""
    try:
        members = split(body)
        if len(members) > TOP_LEVEL_NAMES:
            raise InvalidRequest(f"The request has more than {TOP_LEVEL_NAMES} parameters.")
        params = _PARAMS.decode(body)
        if not body.isascii():
            body.decode()  # strings that nothing here decodes must be UTF-8 as well
    except msgspec.ValidationError as error:
        raise misshapen(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json() from error
    except RecursionError as error:
        raise nested_too_deeply() from error
    names = tuple(members)
    known = members.keys() <= _KNOWN
    rules, fields, size = _shape(names) if known else _new_shape(names)
    if size + sum(map(len, members.values())) != len(body):
        refuse_repeats(body, members)
    unknown = () if known else unknown_names(members, _KNOWN)
    for rule in rules:
        rule(params)
    if _NULL in members.values():
        fields = frozenset(name for name, value in members.items() if value != _NULL)
    if params.stream_options is not None:
        # Whether usage is reported must not depend on which of two members an upstream reads.
        raw = bytes(members["stream_options"])
        options = split(raw)
        refuse_repeats(raw, options, "stream_options.")
        unknown_names(options, _STREAM_OPTIONS)
    return _request(body, params, fields, unknown)


def decode_metadata(body: bytes) -> dict[str, str]:
    """The metadata that a kept completion is to have from now on; null is none. Raises InvalidRequest."""
    try:
        members = split(body)
        params = _METADATA.decode(body)
        if not body.isascii():
            body.decode()
    except msgspec.ValidationError as error:
        raise misshapen(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json() from error
    refuse_repeats(body, members)
    check_metadata(params.metadata or {})
    return params.metadata or {}


def _new_shape(names: tuple[str, ...]) -> tuple[tuple[Rule, ...], frozenset[str], int]:
    """What the names of the members tell, whatever their values: the rules to run, in order, the set of the names, and
    how many bytes an object of them has beside the values, at least. One that has no more gives each name once."""
    return tuple(RULES[name] for name in names if name in RULES), frozenset(names), compact_size(names)


# A client names the same members in the same order again and again. Only documented names are remembered.
_shape = functools.lru_cache(maxsize=1024)(_new_shape)


def _request(body: bytes, params: Params, fields: frozenset[str], unknown: tuple[str, ...]) -> ChatRequest:
    n, options = params.n, params.stream_options
    # By position, in the order of the declaration: thirty keywords would cost as much as all the rest of decoding.
    if fields <= _FIRST:
        return ChatRequest(
            body,
            params.model,
            fields,
            unknown,
            params.stream is True,
            options is not None and options.include_usage is True,
            1 if n is None else integer("n", n, 1, 128),
            _max_tokens(params),
            _stops(params.stop) if params.stop else (),
            params.temperature,
        )
    seed, top_logprobs = params.seed, params.top_logprobs
    return ChatRequest(
        body,
        params.model,
        fields,
        unknown,
        params.stream is True,
        options is not None and options.include_usage is True,
        1 if n is None else integer("n", n, 1, 128),
        _max_tokens(params),
        _stops(params.stop),
        params.temperature,
        params.top_p,
        params.presence_penalty,
        params.frequency_penalty,
        None if seed is None else integer("seed", seed, -(2**63), 2**63 - 1),
        params.logprobs is True,
        None if top_logprobs is None else integer("top_logprobs", top_logprobs, 0, 20),
        params.logit_bias,
        params.tools or (),
        params.tool_choice,
        params.parallel_tool_calls,
        params.functions or (),
        params.function_call,
        params.response_format,
        params.reasoning_effort,
        params.verbosity,
        params.modalities or (),
        params.service_tier,
        params.metadata,
        params.user,
        params.store is True,
        params.safety_identifier,
    )


def unknown_names(members: dict[str, msgspec.Raw], known: frozenset[str]) -> tuple[str, ...]:
    """The names that are not known. Refuses one that differs from a known name in case alone.

    Servers that match names in any case, as Go's encoding/json does, would take it for the known one: `Model` beside
    `model` would name another model than the one that was authorised.
    """
    unknown = tuple(name for name in members if name not in known)
    for name in unknown:
        meant = name.casefold()
        if meant in known:
            raise InvalidRequest(
                f"Unrecognized request argument supplied: {excerpt(name)}. Did you mean '{meant}'?", param=excerpt(name)
            )
    return unknown


def _max_tokens(params: Params) -> int | None:
    deprecated, limit = params.max_tokens, params.max_completion_tokens
    if limit is None and type(deprecated) is int and 0 < deprecated <= INT32_MAX:
        return deprecated
    if deprecated is not None:
        deprecated = integer("max_tokens", deprecated, 1, INT32_MAX)
    if limit is not None:
        return integer("max_completion_tokens", limit, 1, INT32_MAX)
    return deprecated


def _stops(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if not stop:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(text for text in stop if text)
