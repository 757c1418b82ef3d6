"""Keys for a scenario, made as an operator makes them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from support.serving import PENSTOCK


def make_key(data_dir: Path, *limits: str) -> str:
    """A new key, with limits as `penstock keys create` takes them."""
    command = [str(PENSTOCK), "keys", "create", "--name", "soak", *limits, "--json", "--data-dir", str(data_dir)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    return str(json.loads(made.stdout)["key"])
