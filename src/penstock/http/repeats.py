"""Recognises a request whose head is that of the one before on its connection, but for the length of its body.

A client that keeps its connection mostly sends the same head again. The parser has read and judged it once, and the
same bytes mean the same: so such a request is not parsed, and its fields, its path and what the application found of
them hold. It must be all of one read, head and body, that begins where the request before ended. Everything else goes
to the parser, which has seen nothing of what was recognised: it stands between two requests, as before.

Only a head that is plain is remembered: HTTP/1.1, a Content-Length, no coding of transfer or content, no wish for
anything, a connection that is kept. It is kept no longer than its connection, on which its fields are anyhow.
"""

from __future__ import annotations

import re

from penstock.http.request import Request

MAX_HEAD = 4096  # bytes: of a longer one it would cost too much memory to keep it twice
MAX_DIGITS = 9  # of a length; the parser does longer ones
PATIENCE = 4  # heads in a row that were remembered in vain, after which none is any more

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_UNLIKE = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))


class Repeats:
    """What one connection remembers: the head of a request, and what it says.

    `fields`: as of the request whose body was given last. `known`: what the application made of them.
    """

    __slots__ = ("_after", "_before", "_digits", "_vain", "fields", "known", "method", "path", "query")

    def __init__(self) -> None:
        self._before = b""  # of the head, up to its length; empty while none is remembered
        self._after = b""  # from behind its length
        self._digits = b""  # its length
        self.fields: dict[bytes, bytes] = {}
        self._vain = 0
        self.method = self.path = self.query = b""
        self.known: object = None

    def body(self, data: bytes) -> bytes | None:
        """The body of a request that is all there is in `data` and repeats the head; None of any other."""
        before = self._before
        if not before or not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + MAX_DIGITS + 1)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(self._after, end):  # with `end` at -1 they are no digits
            return None
        body = data[end + len(self._after) :]
        if int(digits) != len(body):
            return None
        if digits != self._digits:
            self._digits = digits
            self.fields = {**self.fields, b"content-length": digits}
        self._vain = 0
        return body

    def remember(self, data: bytes, request: Request) -> None:
        """`data` was all of a request that the parser has read, perhaps behind others; its head may come again."""
        if self._vain >= PATIENCE:
            self._before = b""
            return
        self._vain += 1
        fields = request.headers
        head = data[: max(0, len(data) - len(request.body))]
        found = _LENGTH.search(head)
        plain = found is not None and request.keep_alive and not request.http_1_0 and _UNLIKE.isdisjoint(fields)
        plain = plain and fields.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        alone = head.find(b"\r\n\r\n") == len(head) - 4  # no other request ends in it
        if found is None or not plain or len(head) > MAX_HEAD or not alone:
            self._before = b""
            return
        self._before, self._digits, self._after = head[: found.start(1)], found[1], head[found.end(1) :]
        self.fields = fields
        self.method, self.path, self.query, self.known = request.method, request.path, request.query, request.known
