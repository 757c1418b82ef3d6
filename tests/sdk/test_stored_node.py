"""openai-node on stored completions: its own types, pages and headers, against a real server."""

from __future__ import annotations

import json
import os
import subprocess

from sdk.conftest import NODE
from support.serving import Served


def test_node_finds_what_it_stored(packages: None, served: Served) -> None:
    variables = {"BASE_URL": served.base_url, "API_KEY": served.key}
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | variables
    command = ["node", str(NODE / "stored.mjs")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    made, streamed = found["made"], found["streamed"]
    assert found["retrieved"] == made
    assert found["streamRetrieved"]["choices"][0]["message"]["content"] == streamed["choices"][0]["message"]["content"]
    assert found["listed"] == [made["id"], streamed["id"]]
    assert [(one["role"], one["content"]) for one in found["messages"]] == [("user", "Say hello.")]
    assert found["updated"]["metadata"]["more"] == "yes"
    assert found["deleted"] == {"object": "chat.completion.deleted", "id": made["id"], "deleted": True}
    assert found["gone"] == 404
    first, second = found["repeats"]
    assert first == second
