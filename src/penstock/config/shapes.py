"""The configuration as frozen values, each setting with its type, its range and its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from penstock.config.problems import Problem

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Dollars = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one worker takes from its clients. Sizes in bytes, times in seconds."""

    # of the request line and the fields, and of the framing beyond five times the body
    head_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**24)] = 32 * 1024
    headers: Count = 100
    body_bytes: Bytes = 32 * 1024 * 1024  # per request, after decompression
    buffered_bytes: Bytes = 256 * 1024 * 1024  # all request bodies of the worker
    connections: Count = 10_000
    header_timeout: Seconds = 15.0
    body_timeout: Seconds = 60.0
    idle_timeout: Seconds = 75.0
    drain_timeout: Seconds = 30.0
    heartbeat: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0  # silence in a stream before `: ping`; 0 = never


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Penstock listens. `listen` is HOST:PORT or unix:/path."""

    listen: str = "127.0.0.1:8000"
    admin_listen: str = "127.0.0.1:8001"
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    data_dir: str = "~/.local/share/penstock"
    store: str = "sqlite"
    counters: str = "local"  # or the URL of a Redis or Valkey that several hosts share
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose x-forwarded-for is believed
    admin_hosts: tuple[str, ...] = ()  # Host names besides admin_listen's own that the control plane answers
    access_log: bool = True
    auth_failures: Count = 20  # failed keys per address and minute before 429
    auth_stale_max: Seconds = 60.0  # how long known keys work while the key store does not answer
    limits: Limits = Limits()


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long an upstream may take, each armed in its own phase. Seconds."""

    connect: Seconds = 5.0
    headers: Seconds = 120.0
    first_event: Seconds = 120.0  # from the response head to the first event with content
    idle: Seconds = 60.0  # between bytes, once the answer has begun
    total: Seconds = 900.0


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often, and how patiently, a failed request is sent again. Seconds."""

    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4  # in all, at all targets
    first_wait: Seconds = 1.0  # before the second round over the targets; doubled for each further one
    longest_wait: Seconds = 8.0
    max_wait: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0  # spent waiting, in all
    retry_after_cap: Seconds = 20.0  # an upstream that asks for more is not asked again
    patience: Seconds = 120.0  # no attempt begins later, counted from the first failure
    budget_share: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.2  # repeats per call, for each provider
    budget_per_second: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.0
    budget_burst: Count = 20


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a target that fails is left alone, and how soon it is tried again. Seconds."""

    failures: Count = 5  # within the window, and at least half of all calls since the first of them
    window: Seconds = 10.0
    probe_interval: Seconds = 2.0


class Upstream(msgspec.Struct, frozen=True):
    """What every provider over HTTP has, whatever its dialect."""

    name: str
    type: str
    deadlines: Deadlines = Deadlines()
    max_connections: Count = 512
    pool_wait: Seconds = 5.0
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    max_answer_bytes: Bytes = 64 * 1024 * 1024
    max_head_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**24)] = 64 * 1024
    on_hangup: Literal["abort", "drain"] = "abort"  # of a client's: cut the call off, or read it on for its usage
    settings: dict[str, Any] = {}  # the provider's own, as written, checked against its Settings struct


Ability = Literal["tools", "json", "schema", "images", "audio", "files", "embeddings", "completions", "responses"]
Continuing = Literal["message", "prefix", "echoed_prefix", "continue_final_message"]
PolicyName = Literal["ordered", "weighted", "least_outstanding", "lowest_latency", "prefix_affinity"]


class TargetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model` is the name sent upstream; absent, it is the name as asked.

    `like` is the name of a known model that takes the same parameters, for names that do not tell. `continues` is how
    it is told to go on with an answer that another target began.
    """

    provider: str
    model: str | None = None
    like: str | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    context: Count | None = None  # tokens that a conversation may have
    lacks: tuple[Ability, ...] = ()
    continues: Continuing | None = None


class KeyRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who answers the keys of these names (or ``beginning*``) instead; what is left out is as for everybody."""

    keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    targets: tuple[TargetConfig, ...] = ()
    policy: PolicyName | None = None


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Targets in order of preference: the first that is usable answers.

    `drop_unsupported`: leave out sampling parameters and efforts that a target is known to refuse, instead of letting
    it refuse the request. `rescue`: what is done when an answer breaks off after its first bytes are with the client.
    `malformed_events`: whether one that cannot be read ends a stream of chat, or is left out.
    """

    targets: tuple[TargetConfig, ...]
    policy: PolicyName = "ordered"
    drop_unsupported: bool = False
    for_keys: tuple[KeyRoute, ...] = ()
    rescue: Literal["off", "continue", "splice"] = "off"
    malformed_events: Literal["error", "skip"] = "error"


class AnswersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which chat completions are kept to be fetched, and for how long."""

    store: bool = True  # whether `store: true`, and projects that keep their content, are heeded
    retention_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 30.0
    max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=7 * 1024 * 1024)] = 4 * 1024 * 1024  # answer and messages


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of requests. Sizes in bytes.

    `journal_bytes`: what each worker may have in its journal that is not stored yet.
    """

    retention_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 0  # of rows; their sums stay; 0 = for ever
    journal_bytes: Annotated[int, msgspec.Meta(ge=16 * 1024 * 1024, le=2**40)] = 1024 * 1024 * 1024


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens cost, in US dollars. `cached_input`: of those of the prompt that came from a cache; None if
    they cost what the others do."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None


class Counting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How limits on keys and projects are kept. Seconds."""

    max_wait: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0  # for a limit, before a request is refused
    completion_tokens: Count = 512  # of an answer, where neither the request nor experience says
    store_timeout: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05  # of one command
    budgets_fail_open: bool = False  # those in US dollars, while they cannot be counted
    rates_fail_open: bool = True  # all others


class Config(msgspec.Struct, frozen=True):
    """The whole of it, validated. `providers` and `models` by name; a model's name may end in ``*``. `prices` by
    ``PROVIDER/MODEL``, likewise.

    `warnings`: what is served all the same and deserves a word at the start.
    """

    server: Server = Server()
    providers: dict[str, Upstream] = {}
    models: dict[str, Model] = {}
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    answers: AnswersConfig = AnswersConfig()
    ledger: Ledger = Ledger()
    prices: dict[str, Price] = {}
    limits: Counting = Counting()
    warnings: tuple[Problem, ...] = ()
