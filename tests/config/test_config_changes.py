"""What a running server takes of a new configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.config import Breaker, Config, Limits, Model, Problem, Retries, Server, TargetConfig, Upstream, changes
from penstock.config.changes import FIXED, RELOADED

OLD = Config(
    providers={"a": Upstream("a", "vllm", settings={"api_key": "sk-old"}), "b": Upstream("b", "vllm")},
    models={"gpt-5.4": Model((TargetConfig("a"),))},
)
OTHER: dict[str, Any] = {
    "listen": "127.0.0.1:9000",
    "admin_listen": "127.0.0.1:9001",
    "workers": 4,
    "data_dir": "/elsewhere",
    "store": "other",
    "counters": "redis://other",
    "tls_cert": "/cert.pem",
    "tls_key": "/key.pem",
    "trusted_proxies": ("10.0.0.0/8",),
    "admin_hosts": ("admin.test",),
    "access_log": False,
    "auth_failures": 3,
    "auth_stale_max": 5.0,
    "limits": Limits(headers=7),
}


def replaced(**fields: Any) -> Config:
    return msgspec.structs.replace(OLD, **fields)


def test_the_same_changes_nothing() -> None:
    found = changes(OLD, replaced(warnings=(Problem("", None, "doubtful", "none"),)))
    assert (found.changed, found.kept) == ((), ())


def test_what_is_added_removed_and_changed_is_named_and_no_value_is_told() -> None:
    new = replaced(
        providers={"a": Upstream("a", "vllm", settings={"api_key": "sk-new"}), "c": Upstream("c", "vllm")},
        models={**OLD.models, "x y": Model((TargetConfig("c"),))},
        retries=Retries(attempts=2, first_wait=3.0),
        breaker=Breaker(window=1.0),
        server=Server(limits=Limits(headers=7)),
    )
    found = changes(OLD, new)
    assert found.changed == (
        "server.limits.headers",
        "providers.a",
        "providers.b (removed)",
        "providers.c (added)",
        'models."x y" (added)',
        "retries.attempts",
        "retries.first_wait",
        "breaker.window",
    )
    assert (found.kept, found.config) == ((), new)


@pytest.mark.parametrize("name", Server.__struct_fields__)
def test_every_setting_of_the_server_is_either_taken_or_kept_and_named(name: str) -> None:
    found = changes(OLD, replaced(server=Server(**{name: OTHER[name]})))
    if name in RELOADED:
        assert getattr(found.config.server, name) == OTHER[name]
        assert found.kept == ()
        assert [place.split(".")[1] for place in found.changed] == [name]
    else:
        assert name in FIXED
        assert (found.config.server, found.kept, found.changed) == (OLD.server, (f"server.{name}",), ())


def test_the_page_says_of_every_setting_of_the_server_whether_it_needs_a_restart() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) in `\[server\]` \| (.*) \|$", page, re.MULTILINE)
    fixed = [re.findall(r"`(\w+)`", names) for names, what in rows if "needs a restart" in what]
    assert fixed == [list(FIXED)]
    reloaded = {name for names, what in rows if "needs a restart" not in what for name in re.findall(r"`(\w+)`", names)}
    assert reloaded | {"limits"} == set(RELOADED)


def test_the_rest_is_taken_where_one_setting_is_kept() -> None:
    found = changes(OLD, replaced(server=Server(workers=9, auth_failures=9), models={}))
    assert found.config.server == Server(auth_failures=9)
    assert found.config.models == {}
    assert found.kept == ("server.workers",)
