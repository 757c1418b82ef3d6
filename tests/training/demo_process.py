"""Asks the demo model from a process of its own, as llama.cpp writes to the standard streams of the one it lives in.

Standard input: a JSON list of [path, body]. The last line of standard output: a JSON list of [status, answer].
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

import xllamacpp  # type: ignore[import-untyped]


def post(address: str, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as refused:
        with refused:
            status, text = refused.code, refused.read()
    return status, json.loads(text)


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx, params.n_parallel, params.verbosity = 2048, 1, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    answers = [post(server.listening_address, path, body) for path, body in json.load(sys.stdin)]
    print("\n" + json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
