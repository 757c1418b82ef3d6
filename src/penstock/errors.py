"""What can go wrong, in two families: refusals that a caller sees and failures that an upstream causes.

Refusal                      an answer in OpenAI's error envelope; never a 5xx for a caller's fault
|- InvalidRequest      400   invalid_request_error
|  |- NotFound         404   unknown route
|  |- ModelNotFound    404   model_not_found
|  |- MethodNotAllowed 405   carries Allow
|  |- RequestTimeout   408   the sender dribbles
|  |- Conflict         409   another request with this idempotency key is, or was, in its way
|  |- BodyTooLarge     413
|  |- UnsupportedMedia 415
|  '- HeadTooLarge     431
|- AuthenticationFailed 401  authentication_error
|- PermissionDenied    403   permission_error
|- RateLimited         429   rate_limit_error
'- ServerFault         500   server_error
   |- UpstreamFailed   502   a provider misbehaved
   |- Overloaded       503   we, or what we depend on, cannot take more
   '- UpstreamTimeout  504   a provider's deadline passed

Failure                      a frozen value: one attempt at one target ended without an answer
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import msgspec

Headers = tuple[tuple[bytes, bytes], ...]


class Refusal(Exception):
    """An answer in the error envelope.

    `message` is shown to the caller: it says what was wrong and what to do, and holds no secret.
    `param` is the wire path of the field at fault, such as ``messages[0].role``; `code` is OpenAI's
    finer name. `headers` are extra response headers.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.headers = headers


class InvalidRequest(Refusal):
    """The request is at fault: repeat it only after mending it."""

    status = 400
    type = "invalid_request_error"


class NotFound(InvalidRequest):
    """No such route."""

    status = 404


class ModelNotFound(InvalidRequest):
    """The model is unknown, or this key may not use it; the two are not told apart."""

    status = 404
    default_code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """The route exists, the method does not; carries Allow."""

    status = 405


class RequestTimeout(InvalidRequest):
    """Head or body came too slowly."""

    status = 408
    default_code = "request_timeout"


class Conflict(InvalidRequest):
    """Another request with the same idempotency key is in its way."""

    status = 409


class BodyTooLarge(InvalidRequest):
    """The body is above the limit, before or after decompression."""

    status = 413
    default_code = "request_too_large"


class UnsupportedMedia(InvalidRequest):
    """A content encoding or type that is not served."""

    status = 415
    default_code = "unsupported_media_type"


class HeadTooLarge(InvalidRequest):
    """Too many header fields, or too many bytes of head and framing."""

    status = 431
    default_code = "headers_too_large"


class AuthenticationFailed(Refusal):
    """The key is missing, malformed or unknown."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PermissionDenied(Refusal):
    """The key is known and may not do this."""

    status = 403
    type = "permission_error"


class RateLimited(Refusal):
    """A limit, ours or upstream's, is spent."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class ServerFault(Refusal):
    """Our fault."""

    status = 500
    type = "server_error"


class UpstreamFailed(ServerFault):
    """A provider refused us or answered something unusable."""

    status = 502
    default_code = "upstream_failed"


class Overloaded(ServerFault):
    """We, or what we depend on, cannot take this now."""

    status = 503
    default_code = "overloaded"


class UpstreamTimeout(ServerFault):
    """A provider's deadline passed."""

    status = 504
    default_code = "upstream_timeout"


class FailureKind(Enum):
    """Why an attempt ended without an answer: what retry rules and health decide on."""

    CONNECT = "connect"  # no connection: refused, unreachable, TLS, name not found
    STALE = "stale"  # a reused connection closed before any response byte: safe to repeat
    RESET = "reset"  # the connection broke after it had begun to answer
    TIMEOUT_POOL = "timeout_pool"  # every pooled connection stayed busy
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_HEADERS = "timeout_headers"
    TIMEOUT_FIRST_EVENT = "timeout_first_event"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    MALFORMED = "malformed"  # HTML, empty, truncated, not JSON, not HTTP, too large
    TOO_LARGE = "too_large"  # the answer is longer than we hold, which who asks for much can bring about
    INCOMPLETE = "incomplete"  # the answer ended without finish_reason
    REFUSED_US = "refused_us"  # 401, 402, 403, 404: our credentials or configuration
    RATE_LIMITED = "rate_limited"  # 429
    UNAVAILABLE = "unavailable"  # 5xx
    PRESSED = "pressed"  # not called: its rate limit leaves no turn in time
    UNHEALTHY = "unhealthy"  # not called: its breaker is open
    INVALID = "invalid"  # 400, 413, 415, 422: the caller's request
    DIFFERS = "differs"  # it was to go on with an answer that another began, and says something else


class Failure(msgspec.Struct, frozen=True):
    """One attempt's end without an answer.

    `message` is fit for the caller. `body` is the upstream's own error body where the caller is to see it
    unchanged (kind INVALID), else None. `retry_after` is in seconds, as the upstream asked.
    `model_missing`: the upstream says that it has no such model. `quota_spent`: the limit is not one of rate, so that
    waiting does not help. `too_long`: the conversation is longer than the target takes.
    """

    kind: FailureKind
    message: str
    status: int = 0
    body: bytes | None = None
    retry_after: float | None = None
    model_missing: bool = False
    quota_spent: bool = False
    too_long: bool = False


class ProviderFault(Exception):
    """Raised by a provider's reader or preparation, which hold no socket, to end the attempt with `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
