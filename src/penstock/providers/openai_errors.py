"""What an OpenAI-compatible server's error means: a status or an error object in, a Failure out.

The caller sees an upstream's own words only where the request itself was at fault (400, 413, 415, 422): elsewhere they
may name the operator's organisation or account, so the message is ours.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import Failure, FailureKind
from penstock.wire.answer import BROKEN, decode_any

_MAX_TEXT = 300
_QUOTA = "insufficient_quota"

_BY_STATUS = {
    400: FailureKind.INVALID,
    413: FailureKind.INVALID,
    415: FailureKind.INVALID,
    422: FailureKind.INVALID,
    408: FailureKind.UNAVAILABLE,  # it gave up waiting for the request, which is ours whole: worth another try
    409: FailureKind.UNAVAILABLE,  # a conflict over a resource: the official clients try again too
    424: FailureKind.UNAVAILABLE,  # text-generation-inference's word for a failed generation
    425: FailureKind.UNAVAILABLE,
    429: FailureKind.RATE_LIMITED,
    499: FailureKind.UNAVAILABLE,
    501: FailureKind.REFUSED_US,  # llama-server's word for an endpoint that it was not started for
}

# Error objects that come with status 200 say what they are by `code` or `type`: the names of OpenAI, vLLM, Groq,
# OpenRouter and DeepSeek, in lower case.
_BY_NAME = {
    "rate_limit_exceeded": FailureKind.RATE_LIMITED,
    "rate_limit_error": FailureKind.RATE_LIMITED,
    "ratelimiterror": FailureKind.RATE_LIMITED,
    "too_many_requests": FailureKind.RATE_LIMITED,
    "insufficient_quota": FailureKind.RATE_LIMITED,
    "requests": FailureKind.RATE_LIMITED,
    "tokens": FailureKind.RATE_LIMITED,
    "invalid_api_key": FailureKind.REFUSED_US,
    "authentication_error": FailureKind.REFUSED_US,
    "authenticationerror": FailureKind.REFUSED_US,
    "permission_error": FailureKind.REFUSED_US,
    "permission_denied": FailureKind.REFUSED_US,
    "model_not_found": FailureKind.REFUSED_US,
    "notfounderror": FailureKind.REFUSED_US,
    "insufficient_balance": FailureKind.REFUSED_US,
    "invalid_request_error": FailureKind.INVALID,
    "badrequesterror": FailureKind.INVALID,
    "invalid_prompt": FailureKind.INVALID,
    "invalid_value": FailureKind.INVALID,
    "context_length_exceeded": FailureKind.INVALID,
    "content_policy_violation": FailureKind.INVALID,
}

_WORDS = {
    FailureKind.RATE_LIMITED: "limits our rate of requests",
    FailureKind.REFUSED_US: "refused us",
    FailureKind.UNAVAILABLE: "is not able to answer now",
    FailureKind.MALFORMED: "gave an answer that cannot be used",
    FailureKind.INVALID: "refused the request",
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_NO_MODEL_NAMES = ("model_not_found", "DeploymentNotFound")  # the latter is Azure's
_NO_MODEL = re.compile(r"\bmodels?\b.*\b(does not exist|not found)\b", re.IGNORECASE | re.DOTALL)
# How OpenAI (429) and Groq (413) begin where a single request is above the tokens of a minute. What follows names the
# operator's organisation.
_TOO_LARGE = "Request too large for"


def failure_of(provider: str, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float) -> Failure:
    """Classify an answer outside 2xx; `now` is in Unix seconds, for a Retry-After that is a date."""
    kind = _kind_of_status(status)
    found = _decode(body)
    error = _error_in(found)
    if status in (413, 429) and _text(error).startswith(_TOO_LARGE):
        # Not a limit on our rate: waiting does not help, and nobody else need wait for whoever asks it again and again.
        words = f"The request has more tokens than the provider {provider!r} takes within a minute."
        return Failure(FailureKind.INVALID, words, 413, too_long=True)
    if kind is FailureKind.INVALID:
        return _invalid(provider, status, error, body if _is_envelope(found) else None)
    message = f"The provider {provider!r} {_WORDS[kind]} (status {status})."
    if 300 <= status < 400:
        message = f"The provider {provider!r} answered with a redirect (status {status}): check its base_url."
    if status in (404, 405, 501):
        message = f"The provider {provider!r} does not know this endpoint or this model (status {status})."
    missing = status in (403, 404) and _names_no_model(error)  # 403 is OpenAI's, to a project without the model
    if missing:
        message = f"The provider {provider!r} does not have this model."
    if kind is FailureKind.RATE_LIMITED and _QUOTA in _names(error):
        return _quota(provider, status)
    retry_after = None
    if kind in (FailureKind.RATE_LIMITED, FailureKind.UNAVAILABLE):
        retry_after = _retry_after(headers, now)
    return Failure(kind, message, status, retry_after=retry_after, model_missing=missing)


def failure_in_band(provider: str, error: Any) -> Failure:
    """Classify an error object that came with status 200, as a body or as an event of a stream."""
    status, name, kind = 0, "", FailureKind.UNAVAILABLE
    names = _names(error)
    for value in names:
        number = _status(value)
        if number:
            status, kind = number, _kind_of_status(number)
            break
        if isinstance(value, str) and value.lower() in _BY_NAME:
            name, kind = value, _BY_NAME[value.lower()]
            break
    if kind is FailureKind.INVALID:
        envelope = {"error": error}
        body = msgspec.json.encode(envelope) if _is_envelope(envelope) else None
        return _invalid(provider, status or 400, error, body)
    if name == _QUOTA:
        return _quota(provider, 429)
    detail = name or _first_name(names) or (f"status {status}" if status else "no reason that we know")
    message = f"The provider {provider!r} reported an error in its answer: it {_WORDS[kind]} ({detail})."
    return Failure(kind, message, status, model_missing=name == "model_not_found")


def _kind_of_status(status: int) -> FailureKind:
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return kind
    if 300 <= status < 500:
        return FailureKind.REFUSED_US
    return FailureKind.UNAVAILABLE if 500 <= status < 600 else FailureKind.MALFORMED


def _status(value: Any) -> int:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal() and value.isascii():
        value = int(value)
    return value if type(value) is int and 300 <= value < 600 else 0


def _invalid(provider: str, status: int, error: Any, body: bytes | None) -> Failure:
    message = f"The provider {provider!r} refused the request (status {status})."
    text = _text(error)
    if text:
        message = f"{message[:-1]}: {text}"
    too_long = "context_length_exceeded" in _names(error)
    return Failure(FailureKind.INVALID, message, status, body=body, too_long=too_long)


def _decode(body: bytes) -> Any:
    try:
        return decode_any(body)
    except BROKEN:
        return None


def _error_in(found: Any) -> Any:
    """The part of an error body that says what was wrong: OpenAI's envelope, FastAPI's `detail`, or the body itself."""
    if not isinstance(found, dict):
        return None
    return found.get("error") or found.get("detail") or found


def _is_envelope(found: Any) -> bool:
    error = found.get("error") if isinstance(found, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def _names_no_model(error: Any) -> bool:
    names = _names(error)
    return any(name in names for name in _NO_MODEL_NAMES) or bool(_NO_MODEL.search(_text(error)))


def _names(error: Any) -> tuple[Any, ...]:
    """What an error says that it is, the finer name first."""
    return (error.get("code"), error.get("type")) if isinstance(error, dict) else ()


def _quota(provider: str, status: int) -> Failure:
    message = f"The quota at the provider {provider!r} is spent."
    return Failure(FailureKind.RATE_LIMITED, message, status, quota_spent=True)


def _first_name(names: Sequence[Any]) -> str:
    """The first that looks like a name and not like text, or an empty string."""
    for value in names:
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
    return ""


def _text(error: Any) -> str:
    """The words of an error, cut short, on one line."""
    words = error.get("message") if isinstance(error, dict) else error
    if not words:
        return ""
    if not isinstance(words, str):
        words = msgspec.json.encode(words).decode()
    words = " ".join("".join(c if c.isprintable() else " " for c in words[: 4 * _MAX_TEXT]).split())
    return words if len(words) <= _MAX_TEXT else words[:_MAX_TEXT] + "..."


def _retry_after(headers: Sequence[tuple[bytes, bytes]], now: float) -> float | None:
    """Seconds to wait, as asked: `retry-after-ms` beats `retry-after`, which is in seconds or a date (RFC 9110)."""
    fields = {name.lower(): value.decode("latin-1").strip() for name, value in headers}
    milliseconds = _number(fields.get(b"retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = fields.get(b"retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (OverflowError, ValueError):
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
