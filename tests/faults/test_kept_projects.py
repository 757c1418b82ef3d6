"""A project that keeps its content, at a real server: made by commands, shared by its keys, there after a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from support.serving import Served, serving
from support.upstreams import threaded_upstream

CONFIG = """
[providers.fake]
type = "openai"
base_url = "{base_url}"

[models."*"]
targets = [{{ provider = "fake" }}]
"""


def penstock(directory: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "penstock", *arguments, "--data-dir", str(directory), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def listed(served: Served, key: str) -> Sequence[str]:
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.get(f"{served.base_url}/chat/completions", headers=headers, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


def test_all_its_completions_are_kept_for_all_its_keys_and_outlive_the_server(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    penstock(directory, "projects", "create", "--name", "web", "--keep-content")
    members = [penstock(directory, "keys", "create", "--name", name, "--project", "web")["key"] for name in "ab"]
    stranger = penstock(directory, "keys", "create", "--name", "c")["key"]
    with threaded_upstream() as upstream:
        config = CONFIG.format(base_url=upstream.base_url)
        where = ("--data-dir", str(directory))
        with serving(config, arguments=where) as served:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
            headers = {"authorization": f"Bearer {members[0]}"}
            url = f"{served.base_url}/chat/completions"
            made = httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False).json()["id"]
            assert listed(served, members[1]) == [made]
            assert listed(served, stranger) == []
        with serving(config, arguments=where) as served:
            assert listed(served, members[1]) == [made]
            assert listed(served, stranger) == []
