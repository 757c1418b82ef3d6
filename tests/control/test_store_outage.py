"""A server whose PostgreSQL goes away: what goes on, what is refused, and that it recovers by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from click.testing import CliRunner

from penstock.cli import main
from support.postgres import postgres_server
from support.serving import START, Served, serving
from support.upstreams import ThreadedUpstream

CONFIG = """
[server]
store = "file:{file}"
auth_stale_max = 2

[providers.up]
type = "vllm"
base_url = "{base_url}"

[models."gpt-5.4"]
targets = [{{ provider = "up" }}]
"""


def status(served: Served, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{served.base_url}/models", headers=headers, trust_env=False, timeout=START).status_code


def until(holds: Callable[[], bool]) -> None:
    """Nothing tells a test what another process has come to: look often."""
    deadline = time.monotonic() + START
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_known_keys_go_on_for_a_while_without_the_database_and_all_is_well_after_it(
    upstream: ThreadedUpstream, tmp_path: Path
) -> None:
    with postgres_server() as database:
        file = tmp_path / "database"
        file.write_text(database.create())
        (tmp_path / "store.toml").write_text(f'[server]\nstore = "file:{file}"\n')

        def made(name: str) -> str:
            arguments = ("keys", "create", "--name", name, "--json", "--config", str(tmp_path / "store.toml"))
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.output
            key: str = json.loads(result.stdout)["key"]
            return key

        known, unknown = made("known"), made("unknown")
        with serving(CONFIG.format(file=file, base_url=upstream.base_url)) as served:
            assert status(served, known) == 200
            database.stop()
            began = time.monotonic()
            assert status(served, known) == 200
            until(lambda: httpx.get(f"{served.url}/ready", trust_env=False).status_code == 503)
            assert status(served, unknown) == 503
            until(lambda: status(served, known) == 503)
            assert time.monotonic() - began >= 2  # auth_stale_max
            assert status(served, served.key) == 200  # the one from the environment is in no store
            database.start()
            until(lambda: httpx.get(f"{served.url}/ready", trust_env=False).status_code == 200)
            assert status(served, known) == status(served, unknown) == 200
            later = made("later")
            until(lambda: status(served, later) == 200)
