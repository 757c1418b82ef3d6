"""Keys with limits, made by the command as an operator makes them."""

from __future__ import annotations

import json
import subprocess

from support.serving import PENSTOCK, Served


def limited_key(served: Served, *options: str) -> str:
    """A key of a server, with the options of `penstock keys create`."""
    command = [str(PENSTOCK), "keys", "create", "--json", "--name", "limited", "--data-dir", str(served.data_dir)]
    made = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    key: str = json.loads(made.stdout)["key"]
    return key
