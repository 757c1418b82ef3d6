"""What a request must be for the edge to take it: the rules that llhttp, the parser, does not keep for us.

Functions of a head's fields and of a body's bytes, without a connection; each raises the Refusal that says what is
wrong. Lengths with more digits than 64 bits need are refused because int() refuses thousands of them, and leading
zeros make as many as a client likes. A gzip body is inflated no further than the limit of a body, must end where its
stream ends, and nothing may follow it.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import cast

import httptools

from penstock.config import Limits
from penstock.errors import (
    BodyTooLarge,
    HeadTooLarge,
    InvalidRequest,
    Overloaded,
    Refusal,
    ServerFault,
    UnsupportedMedia,
)

MAX_LENGTH_DIGITS = 20
SHUTTING_DOWN = "The server is shutting down; try again."
GZIP = 31  # zlib's wbits for a gzip stream and nothing else


def check_body_fields(fields: dict[bytes, bytes], http_1_0: bool, limits: Limits) -> bool:
    """Judge what the head says of the body; whether it is compressed."""
    coding = fields.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        raise InvalidRequest("The only Transfer-Encoding that is served is chunked.")
    if coding is not None and http_1_0:
        raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding.")
    length = fields.get(b"content-length")
    if length is not None:
        if len(length) > MAX_LENGTH_DIGITS:
            raise InvalidRequest("The Content-Length has too many digits.")
        if int(length) > limits.body_bytes:
            raise body_too_large(limits)
    encoding = fields.get(b"content-encoding")
    if encoding is None or (encoding := encoding.lower()) == b"identity":
        return False
    if encoding not in (b"gzip", b"x-gzip"):
        raise UnsupportedMedia("Content-Encoding must be gzip or identity.")
    return True


def body_too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limits.body_bytes} bytes.")


def head_too_large(limits: Limits) -> HeadTooLarge:
    return HeadTooLarge(f"The request has more than {limits.head_bytes} bytes of header fields and framing.")


def inflate(decompress: zlib._Decompress, data: bytes, size: int, limits: Limits) -> bytes:
    """The next bytes of a gzip body, of which `size` bytes are there already."""
    try:
        out = decompress.decompress(data, limits.body_bytes - size + 1)
    except zlib.error as error:
        raise InvalidRequest("The body is not valid gzip.") from error
    if decompress.unconsumed_tail:
        raise body_too_large(limits)
    if decompress.unused_data:
        raise InvalidRequest("There are bytes after the end of the gzip body.")
    return out


def absolute_path(method: bytes, url: bytes) -> bytes:
    """The path of a target that does not begin with one: the absolute form (RFC 9112 section 3.2.2)."""
    if method == b"CONNECT":
        raise InvalidRequest("CONNECT is not supported.")
    try:
        return cast("bytes | None", httptools.parse_url(url).path) or b"/"
    except httptools.HttpParserInvalidURLError as error:
        raise InvalidRequest("The request target is not a valid URL.") from error


def overloaded(message: str) -> Overloaded:
    return Overloaded(message, headers=((b"Retry-After", b"1"),))


def shut_down() -> Overloaded:
    """What ends an answer in flight when a drain takes too long."""
    return Overloaded("The server shut down before the answer was complete.", code="server_shutting_down")


def refusal_of(admission: asyncio.Future[object]) -> Refusal | None:
    """What an admission that was waited for decided; an error in it is our fault and goes to the loop's handler."""
    if admission.cancelled():
        return ServerFault("The request could not be admitted.")
    error = admission.exception()
    if error is None or isinstance(error, Refusal):
        return error
    admission.get_loop().call_exception_handler({"message": "admission failed", "exception": error})
    return ServerFault("The request could not be admitted.")
