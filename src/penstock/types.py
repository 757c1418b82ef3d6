"""The nouns that travel between rooms and stages: frozen values."""

from __future__ import annotations

from typing import Any

import msgspec

# What a record's `endpoint` and the endpoints of a key are named by.
ENDPOINTS = ("chat.completions", "completions", "embeddings", "responses")


class Principal(msgspec.Struct, frozen=True, gc=False):
    """Who calls. `models`: names and `prefix*` patterns the key may use; empty means all; `endpoints` likewise, by the
    names that a record's `endpoint` has.

    `project_id`: the project that the key belongs to, empty if none. `limited`: whether any limit holds for it;
    `by_model`: whether one of them is for some models alone; `hard`: whether one of them caps the output. `weight`: its
    share of what several keys wait for. `expires_at`: in Unix seconds. `keeps_content`: its project's answers are kept.
    """

    key_id: str
    name: str
    models: tuple[str, ...] = ()
    project_id: str = ""
    endpoints: tuple[str, ...] = ()
    limited: bool = False
    by_model: bool = False
    hard: bool = False
    weight: float = 1.0
    expires_at: float | None = None
    keeps_content: bool = False


class Claim(msgspec.Struct, frozen=True, gc=False):
    """How much of each unit: requests, tokens (prompt and completion), nano-dollars, and requests in flight."""

    requests: int = 0
    tokens: int = 0
    nanos: int = 0
    slots: int = 0


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """What became of a reservation: so much was taken from the lease of that id, and so many of its tokens and
    nano-dollars were used; requests are used as they were taken."""

    lease: str
    requests: int
    tokens: int
    nanos: int
    used_tokens: int
    used_nanos: int


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
    caller's own model name is passed on; `label` is ``provider/model``, fit for a response header. `like` is the model
    whose capabilities it has, where its name does not tell; `drop_unsupported` whether parameters that it would refuse
    are left out. `key` tells targets apart: what is known of them is kept under it, and the models behind a wildcard
    share one. `weight`: its share of the load, where the policy shares it; `context`: the tokens that a conversation
    may have, None if unknown; `lacks`: what it cannot do (tools, schema, images, audio, files, or an endpoint).
    `continues`: how it is told to go on with an answer that another began, None if it cannot; `skips_malformed`:
    whether events of a stream that cannot be read are left out, instead of ending it.
    """

    route: str
    provider: str
    model: str
    wildcard: bool = False
    label: bytes = b""
    like: str | None = None
    drop_unsupported: bool = False
    key: str = ""
    weight: float = 1.0
    context: int | None = None
    lacks: tuple[str, ...] = ()
    continues: str | None = None
    skips_malformed: bool = False


class Dropped(msgspec.Struct, frozen=True):
    """A candidate that was not considered, and why."""

    target: Target
    reason: str


class Skipped(msgspec.Struct, frozen=True):
    """What a record says of a dropped candidate."""

    provider: str
    model: str
    reason: str


class Plan(msgspec.Struct, frozen=True):
    """Targets to try, in the order that `policy` gave them; and those that were left out.

    `rescue`: what is done for an answer that broke off: continue, splice, or nothing where it is empty. `ready_in`:
    where no target is left, seconds until one may be called again.
    """

    targets: tuple[Target, ...]
    dropped: tuple[Dropped, ...] = ()
    policy: str = "ordered"
    rescue: str = ""
    ready_in: float = 0.0


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
    """One try at one target. `outcome` is "ok", "cancelled" or a FailureKind value; times in milliseconds.

    `wait_ms`: how long was waited since the try before. `usage`: what it cost, where one answer took several tries;
    else None, and the record's is the cost.
    """

    provider: str
    model: str
    status: int
    outcome: str
    duration_ms: float
    wait_ms: float = 0.0
    usage: Usage | None = None


class Record(msgspec.Struct, frozen=True):
    """All that is kept of one request: it feeds the access line and the metrics, and holds no key and no prompt.

    `ended` says what ended it: ok, refused, failed, hangup, cut (an in-band error), drained or revoked.
    `first_event_ms` is None when nothing was sent; `started_at` is in Unix seconds. `endpoint` is "chat.completions",
    "completions", "embeddings" or "responses", and empty where no upstream was to be asked.
    `skipped`: the targets that were not considered; `stopped`: why, after a failure, no other attempt was made.
    `rescue`: what became of an answer that broke off, where its model has them rescued: "continued", "spliced",
    "failed", or "unfit" and why; provider and model are then those that began it, and `usage` is that of all attempts.
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
    endpoint: str = ""
    skipped: tuple[Skipped, ...] = ()
    stopped: str = ""
    rescue: str = ""


class KeptAnswer(msgspec.Struct, frozen=True):
    """A chat completion that is kept to be fetched: `body` is the object as JSON, `messages` what it answers.

    `scope` says whose it is: nobody of another scope learns that it exists. `kept_at` is in Unix seconds.
    """

    scope: str
    id: str
    model: str
    kept_at: float
    metadata: dict[str, str]
    body: bytes
    messages: bytes = b""


class Page(msgspec.Struct, frozen=True):
    """Which of the kept answers are asked for: at most `limit`, in the order in which they were kept or in the reverse,
    those after the one of id `after`, of one model, and with all of this metadata."""

    limit: int = 20
    descending: bool = False
    after: str = ""
    model: str = ""
    metadata: dict[str, str] = {}


class Run(msgspec.Struct, frozen=True):
    """One run of a request that has an idempotency key. `id`: a digest of the caller and the key; `fingerprint`: of
    what was asked; `claim`: this run's own name."""

    id: bytes
    fingerprint: bytes
    claim: str


class Replay(msgspec.Struct, frozen=True):
    """An answer as a repeat is given it: `head` are the header lines that it keeps, `request_id` is the first one's."""

    request_id: str
    stream: bool
    head: bytes
    body: bytes


JSON = dict[str, Any]


def milliseconds(seconds: float) -> float:
    """To the microsecond; several times cheaper than `round`."""
    return int(seconds * 1_000_000) / 1000
