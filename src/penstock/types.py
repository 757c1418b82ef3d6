"""The nouns that travel between stages: frozen values, but for the Exchange of the request in flight."""

from __future__ import annotations

from typing import Any

import msgspec


class Principal(msgspec.Struct, frozen=True, gc=False):
    """Who calls. `models`: names and `prefix*` patterns the key may use; empty means all."""

    key_id: str
    name: str
    models: tuple[str, ...] = ()


class Origin(msgspec.Struct, frozen=True):
    """Where calls go: ``https://host:port`` or a unix socket (`uds`, a path; then host is only the Host header)."""

    scheme: str
    host: str
    port: int
    uds: str | None = None


class Target(msgspec.Struct, frozen=True, gc=False):
    """One place that can answer a model.

    `route` is the configured name or pattern that matched (a bounded set, so fit for metric labels);
    `provider` the configured provider's name; `model` the name sent upstream; `wildcard` whether the
    caller's own model name is passed on.
    """

    route: str
    provider: str
    model: str
    wildcard: bool = False


class EngineAddress(msgspec.Struct, frozen=True):
    """Where a local engine listens: a unix socket path, stable across its restarts, and its bearer token."""

    uds: str
    token: str


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer. `source`: reported by the upstream, estimated by us, or partial (cut off)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: str = "reported"


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try at one target. `outcome` is "ok" or a FailureKind value; times in milliseconds."""

    provider: str
    model: str
    status: int
    outcome: str
    duration_ms: float


class Record(msgspec.Struct, frozen=True):
    """All that is kept of one request: it feeds the access line and the metrics, and holds no key and no prompt.

    `ended` says what ended it: ok, refused, failed, hangup, cut (an in-band error) or drained.
    `first_event_ms` is None when nothing was sent; `started_at` is in Unix seconds.
    """

    request_id: str
    started_at: float
    key_id: str
    route: str
    provider: str
    model: str
    stream: bool
    status: int
    ended: str
    code: str | None
    usage: Usage | None
    duration_ms: float
    first_event_ms: float | None
    attempts: tuple[Attempt, ...]
    client_request_id: str | None = None
    client: str = ""


class Exchange:
    """The one mutable object of a request: stages note here what the record will say."""

    __slots__ = (
        "attempts",
        "client",
        "client_request_id",
        "code",
        "ended",
        "first_event",
        "principal",
        "request_id",
        "started",
        "started_at",
        "status",
        "stream",
        "target",
        "usage",
    )

    def __init__(self, request_id: str, started: float, started_at: float) -> None:
        self.request_id = request_id
        self.started = started  # monotonic seconds
        self.started_at = started_at  # Unix seconds
        self.principal: Principal | None = None  # once the key is known
        self.target: Target | None = None
        self.stream = False
        self.status = 0
        self.ended = "failed"
        self.code: str | None = None
        self.usage: Usage | None = None
        self.first_event: float | None = None
        self.attempts: list[Attempt] = []
        self.client = ""
        self.client_request_id: str | None = None


JSON = dict[str, Any]
