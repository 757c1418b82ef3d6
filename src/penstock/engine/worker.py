"""The engine process: serves one GGUF file with llama.cpp on a unix socket until its standard input closes.

Run as ``python -m penstock.engine.worker`` by `penstock.engine.process`. Interrupts and terminations are ignored: a
terminal or a supervisor sends them to every process of the service at once, and streams must be able to end first.
The parent decides when this process stops, by closing its standard input, and if the parent dies the kernel does it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec
import xllamacpp  # type: ignore[import-untyped]

from penstock.engine.gguf import Head, UnusableFile, read_head
from penstock.engine.spec import Assignment, EngineSpec, Loaded, Report, Unloadable

# Below this size a second thread costs more in waiting than it computes.
_TINY_BYTES = 64 * 1024 * 1024
_DEFAULT_CONTEXT = 8192
# A hang-up while the prompt is read is noticed between batches, so a batch must not take long.
_BATCH_TINY = 256
_BATCH = 64
_ERRORS_ONLY = 1


def params(assignment: Assignment, head: Head) -> xllamacpp.CommonParams:
    """The engine's parameters for one assignment, each choice made."""
    spec = assignment.spec
    tiny = head.size < _TINY_BYTES
    context = choose_context(spec, head)
    chosen = xllamacpp.CommonParams()
    chosen.model.path = spec.model_path
    chosen.hostnames = [assignment.uds]
    chosen.api_keys = [assignment.token]
    chosen.verbosity = _ERRORS_ONLY
    chosen.ui = False
    chosen.n_parallel = spec.parallel
    # One pool for all slots, which is what shares a prompt between the choices of one request; each slot's share is
    # guaranteed. Without that bound, full slots would break each other's answers in the middle.
    chosen.kv_unified = True
    chosen.n_ctx = context * spec.parallel
    chosen.kv_unified_per_slot = context
    chosen.fit_params = False
    chosen.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts
    chosen.n_batch = chosen.n_ubatch = _BATCH_TINY if tiny else _BATCH
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = choose_threads(spec, head)
    chosen.n_threads_http = spec.connections + 8
    # An assistant's last message is a turn like any other, not the beginning of the answer.
    chosen.prefill_assistant = False
    chosen.sse_ping_interval = -1
    return chosen


def choose_context(spec: EngineSpec, head: Head) -> int:
    """Tokens per request: as asked, or a default, and no more than the model was trained for."""
    wanted = spec.context or _DEFAULT_CONTEXT
    return min(wanted, head.trained_context) if head.trained_context else wanted


def choose_threads(spec: EngineSpec, head: Head) -> int:
    """Threads that compute: as asked; else one for a tiny model, or all processors but one.

    llama.cpp's threads wait for each other by spinning: when the gateway, or the thread that answers HTTP, needs one of
    their processors, all of them stand still, and a hang-up is noticed hundreds of milliseconds late.
    """
    if spec.threads:
        return spec.threads
    if head.size < _TINY_BYTES:
        return 1
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors - 1)


def load(assignment: Assignment) -> tuple[xllamacpp.Server | None, Report]:
    """The running server and what to report."""
    spec = assignment.spec
    try:
        head = read_head(Path(spec.model_path))
    except UnusableFile as error:
        return None, Unloadable(str(error))
    Path(assignment.uds).unlink(missing_ok=True)  # left by a process that was killed; llama.cpp would not start
    try:
        server = xllamacpp.Server(params(assignment, head))
    except RuntimeError:  # what it says is always the same; what llama.cpp printed tells why
        return None, Unloadable(f"cannot load model {spec.model_path}")
    return server, Loaded(choose_context(spec, head), choose_threads(spec, head))


def main() -> None:
    """Serve one assignment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # llama.cpp may print: keep standard output for the report alone.
    report_to = os.dup(1)
    os.dup2(2, 1)
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    server, report = load(assignment)
    os.write(report_to, msgspec.json.encode(report) + b"\n")
    if server is None:
        sys.exit(1)
    while os.read(0, 4096):
        pass
    Path(assignment.uds).unlink(missing_ok=True)
    # Not sys.exit: the engine's destructor waits for answers that nobody reads any more.
    os._exit(0)


if __name__ == "__main__":
    main()
