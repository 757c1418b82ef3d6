"""Says in lines for people what a configuration serves, where and by which target, and tells no secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from penstock.config.address import parse_listen
from penstock.config.database import where
from penstock.config.shapes import Config, Model, TargetConfig, Upstream


def summary(config: Config) -> str:
    """Several lines, the last without its end."""
    server = config.server
    workers = "1 worker" if server.workers == 1 else f"{server.workers} workers"
    scheme = "https" if server.tls_cert else "http"
    places = [
        ("Clients", f"{_url(server.listen, scheme)} ({workers})"),
        ("Control plane", _url(server.admin_listen, "http")),
        ("State", f"{server.data_dir} ({where(server.store)})"),
    ]
    models = [row for name, model in config.models.items() for row in _model(name, model)]
    providers = [(name, _provider(upstream)) for name, upstream in config.providers.items()]
    parts = (places, [("Model", "answered by"), *models], [("Provider", "type"), *providers])
    return "\n\n".join(_columns(part) for part in parts)


def _url(listen: str, scheme: str) -> str:
    address = parse_listen(listen)
    if address.unix is not None:
        return f"{scheme} on the unix socket {address.unix}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{host}:{address.port}" if address.port else f"{scheme}://{host}, a port that the system picks"


def _model(name: str, model: Model) -> Iterator[tuple[str, str]]:
    rescue = f"; rescue: {model.rescue}" if model.rescue != "off" else ""
    yield name, _targets(model.targets, model.policy) + rescue
    for route in model.for_keys:
        targets = _targets(route.targets or model.targets, route.policy or model.policy)
        yield "", f"keys {', '.join(route.keys)}: {targets}"


def _targets(targets: Sequence[TargetConfig], policy: str) -> str:
    if policy == "ordered" or len(targets) == 1:
        return ", then ".join(map(_target, targets))
    return f"{' or '.join(map(_target, targets))}, {policy}"


def _target(target: TargetConfig) -> str:
    return f"{target.provider} ({target.model or 'the name as asked'})"


def _provider(upstream: Upstream) -> str:
    shown = (upstream.settings.get(key) for key in ("base_url", "model"))
    return ", ".join([upstream.type, *(value for value in shown if isinstance(value, str))])


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:{width}}  {right}" for left, right in rows)
