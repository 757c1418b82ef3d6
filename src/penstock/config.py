"""The configuration: a TOML file and the environment in, frozen values out, every error at once."""

from __future__ import annotations

from typing import Any

import msgspec


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one worker takes from its clients. Sizes in bytes, times in seconds."""

    head_bytes: int = 32 * 1024  # request line and fields, and framing beyond five times the body
    headers: int = 100
    body_bytes: int = 32 * 1024 * 1024  # per request, after decompression
    buffered_bytes: int = 256 * 1024 * 1024  # all request bodies of the worker
    connections: int = 10_000
    header_timeout: float = 15.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    drain_timeout: float = 30.0
    heartbeat: float = 0.0  # silence in a stream before `: ping`; 0 = never


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Penstock listens. `listen` is HOST:PORT or unix:/path."""

    listen: str = "127.0.0.1:8000"
    admin_listen: str = "127.0.0.1:8001"
    workers: int = 1
    data_dir: str = "~/.local/share/penstock"
    store: str = "sqlite"
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose x-forwarded-for is believed
    admin_hosts: tuple[str, ...] = ()  # Host names besides admin_listen's own that the control plane answers
    access_log: bool = True
    auth_failures: int = 20  # failed keys per address and minute before 429
    limits: Limits = Limits()


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long an upstream may take, each armed in its own phase. Seconds."""

    connect: float = 5.0
    headers: float = 120.0
    first_event: float = 120.0  # from the response head to the first event with content
    idle: float = 60.0  # between bytes, once the answer has begun
    total: float = 900.0


class Upstream(msgspec.Struct, frozen=True):
    """What every provider over HTTP has, whatever its dialect."""

    name: str
    type: str
    deadlines: Deadlines = Deadlines()
    max_connections: int = 512
    pool_wait: float = 5.0
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    max_answer_bytes: int = 64 * 1024 * 1024
    max_head_bytes: int = 64 * 1024
    settings: dict[str, Any] = {}  # the provider's own, validated against its Settings struct


class TargetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model` is the name sent upstream; absent, it is the name as asked."""

    provider: str
    model: str | None = None


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Targets in order of preference: the first that is usable answers."""

    targets: tuple[TargetConfig, ...]


class Config(msgspec.Struct, frozen=True):
    """The whole of it, validated. `providers` and `models` by name; a model's name may end in ``*``."""

    server: Server = Server()
    providers: dict[str, Upstream] = {}
    models: dict[str, Model] = {}
