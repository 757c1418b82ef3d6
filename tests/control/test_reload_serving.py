"""A running server whose configuration changes: under load, in the middle of streams, by halves, with engines."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer, Chunk
from support.processes import children, engines
from support.serving import INHERITED, PENSTOCK, START, Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

HELD = Answer(chunks=("one", Chunk(text="two", wait="gate")))


def toml(upstream: ThreadedUpstream, name: str = "up", server: str = "", more: str = "") -> str:
    return f"""
[server]
{server}

[providers.{name}]
type = "vllm"
base_url = "{upstream.base_url}"

[models."gpt-5.4"]
targets = [{{ provider = "{name}" }}]

[models.held]
targets = [{{ provider = "{name}" }}]
{more}
"""


DEMO = """
[providers.demo]
type = "llama"
parallel = {parallel}

[models.penstock-demo]
targets = [{{ provider = "demo" }}]
"""


@pytest.fixture
def old() -> Iterator[ThreadedUpstream]:
    with threaded_upstream({"held": [HELD], "*": [Answer()]}) as upstream:
        yield upstream


@pytest.fixture
def new() -> Iterator[ThreadedUpstream]:
    with threaded_upstream() as upstream:
        yield upstream


def until(holds: Callable[[], bool], served: Served, within: float = START) -> None:
    """Nothing tells a test what another process has come to: look often."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, served.output
        time.sleep(0.01)


def write(served: Served, text: str) -> None:
    (served.home / "penstock.toml").write_text(text)


def reload(served: Served, text: str) -> str:
    """Change the file, have it read at once, and give what the log then says of it."""
    before = len(served.output)
    write(served, text)
    served.process.send_signal(signal.SIGHUP)
    until(
        lambda: any(said in served.output[before:] for said in (" is applied by ", " is not applied", "was read: ")),
        served,
    )
    return served.output[before:]


def ask(client: httpx.Client, model: str = "gpt-5.4", **members: Any) -> httpx.Response:
    return client.post(
        "/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "x"}], **members}
    )


def caller(served: Served) -> httpx.Client:
    return httpx.Client(base_url=served.base_url, headers=served.headers, trust_env=False, timeout=60.0)


def metric(served: Served, series: str) -> float:
    key = (served.data_dir / "admin-key").read_text().strip()
    headers = {"authorization": f"Bearer {key}"}
    text = httpx.get(f"{served.admin_url}/metrics", headers=headers, trust_env=False).text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{series} "))


class Load:
    """Requests one after the other from several clients, until told to end."""

    def __init__(self, served: Served, clients: int) -> None:
        self.statuses: list[int | str] = []
        self._served = served
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with caller(self._served) as client:
            while not self._end.is_set():
                try:
                    self.statuses.append(ask(client, stream=len(self.statuses) % 2 == 0).status_code)
                except httpx.HTTPError as error:
                    self.statuses.append(repr(error))


@contextmanager
def in_stream(served: Served) -> Iterator[Iterator[str]]:
    """What is left of a stream whose first event was read."""
    body = {"model": "held", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with caller(served) as client, client.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while '"one"' not in next(lines):
            pass
        yield lines


def test_under_load_no_request_fails_and_streams_end_where_they_began(
    old: ThreadedUpstream, new: ThreadedUpstream
) -> None:
    with serving(toml(old, server="workers = 2")) as served, Load(served, 4) as load, ExitStack() as stack:
        until(lambda: "Clients" in served.output, served)
        streams = [stack.enter_context(in_stream(served)) for _ in range(8)]
        for turn in range(6):  # to and fro; the last is new
            name = ("new", "up")[turn % 2]
            target = (new, old)[turn % 2] if turn < 5 else new
            said = reload(served, toml(target, f"{name}{turn}", 'listen = "127.0.0.1:1"\nworkers = 2'))
            assert " is applied by 2 workers: " in said
            reached = len(load.statuses)
            until(lambda since=reached: len(load.statuses) >= since + 20, served)  # type: ignore[misc]
        seen = len(old.seen)
        reached = len(load.statuses)
        until(lambda: len(load.statuses) >= reached + 20, served)
        assert len(old.seen) == seen, "nobody is sent to the old one any more"
        assert set(load.statuses) == {200}
        old.open("gate")
        for lines in streams:
            rest = [line for line in lines if line]
            assert '"two"' in "".join(rest)
            assert rest[-1] == "data: [DONE]"
        old.wait_for(lambda: old.open_connections == 0)
        assert "needs a restart" not in served.output, "what the command line says comes before the file"


def test_a_file_with_errors_is_refused_with_all_of_them_and_the_old_one_serves_on(
    old: ThreadedUpstream, new: ThreadedUpstream
) -> None:
    with serving(toml(old)) as served, caller(served) as client:
        until(lambda: "Clients" in served.output, served)
        said = reload(served, toml(new, server="wokers = 2\nauth_failures = 0", more="[models.x]\n"))
        until(lambda: "models.x" in served.output, served)
        said = served.output[served.output.index(" is not applied") :]
        for part in ("3 problems", "server.wokers", "did you mean workers?", "server.auth_failures", "models.x"):
            assert part in said
        shown = subprocess.run(
            [str(PENSTOCK), "check-config", str(served.home / "penstock.toml")],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(served.home)},
        ).stderr.splitlines()
        assert all(line in said for line in shown[:-1])
        assert ask(client).status_code == 200
        assert (len(old.seen), len(new.seen)) == (1, 0)
        assert metric(served, "penstock_config_last_reload_successful") == 0
        assert metric(served, 'penstock_config_reloads_total{outcome="refused"}') == 1
        assert " is applied by 1 worker: " in reload(served, toml(new))
        assert metric(served, "penstock_config_last_reload_successful") == 1
        assert ask(client).status_code == 200
        assert (len(old.seen), len(new.seen)) == (1, 1)


def test_a_change_of_the_file_alone_is_enough_and_its_first_half_does_no_harm(
    old: ThreadedUpstream, new: ThreadedUpstream
) -> None:
    with serving(toml(old)) as served, caller(served) as client:
        until(lambda: "Clients" in served.output, served)
        whole = toml(new)
        write(served, whole[: whole.index("targets")])  # and then whoever writes it is held up
        until(lambda: " is not applied, the old configuration serves on: " in served.output, served)
        assert ask(client).status_code == 200
        assert (len(old.seen), len(new.seen)) == (1, 0)
        write(served, whole)
        until(lambda: " is applied by 1 worker: " in served.output, served)
        assert ask(client).status_code == 200
        assert (len(old.seen), len(new.seen)) == (1, 1)


def test_a_worker_that_starts_later_serves_the_new_one(old: ThreadedUpstream, new: ThreadedUpstream) -> None:
    with serving(toml(old, server="workers = 2")) as served:
        until(lambda: "Clients" in served.output, served)
        assert " is applied by 2 workers: " in reload(served, toml(new, server="workers = 2"))
        before = children(served.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(children(served.pid)) == 2 and not set(before) & set(children(served.pid)), served)
        served.wait_for("/ready")
        for _ in range(8):
            with caller(served) as client:
                assert ask(client).status_code == 200
        assert (len(old.seen), len(new.seen)) == (0, 8)


def test_a_setting_that_needs_a_restart_is_named_and_the_rest_is_applied(
    old: ThreadedUpstream, new: ThreadedUpstream
) -> None:
    with serving(toml(old)) as served, caller(served) as client:
        until(lambda: "Clients" in served.output, served)
        said = reload(served, toml(new, server="workers = 3\naccess_log = false"))
        for name in ("workers", "access_log"):
            assert f"server.{name} was changed, which needs a restart: the old value stays" in said
        assert len(children(served.pid)) == 1
        assert ask(client).status_code == 200
        assert len(new.seen) == 1


def test_without_a_file_sighup_says_that_there_is_nothing_to_read() -> None:
    with serving(environment={"OPENAI_API_KEY": "sk-none"}) as served:
        until(lambda: "Clients" in served.output, served)
        served.process.send_signal(signal.SIGHUP)
        until(lambda: "nothing to read again" in served.output, served)
        served.wait_for("/health")


def test_a_local_model_is_started_kept_replaced_and_stopped_with_the_configuration(old: ThreadedUpstream) -> None:
    with serving(toml(old)) as served, caller(served) as client:
        until(lambda: "Clients" in served.output, served)
        assert engines(served.pid) == []
        assert ask(client, "penstock-demo").status_code == 404
        reload(served, toml(old, more=DEMO.format(parallel=2)))
        until(lambda: ask(client, "penstock-demo", max_tokens=4).status_code == 200, served)
        (first,) = engines(served.pid)
        reload(served, toml(old, server="auth_failures = 3", more=DEMO.format(parallel=2)))
        assert engines(served.pid) == [first]
        assert ask(client, "penstock-demo", max_tokens=4).status_code == 200
        reload(served, toml(old, more=DEMO.format(parallel=3)))
        until(lambda: len(engines(served.pid)) == 1 and engines(served.pid) != [first], served)
        until(lambda: ask(client, "penstock-demo", max_tokens=4).status_code == 200, served)
        reload(served, toml(old))
        until(lambda: engines(served.pid) == [], served)
        assert ask(client, "penstock-demo").status_code == 404
        until(lambda: served.output.count("was stopped: the configuration asks for it no longer") == 2, served)
        assert ask(client).status_code == 200


def test_an_answer_of_a_local_model_ends_whole_though_the_model_is_gone(old: ThreadedUpstream) -> None:
    with serving(toml(old, more=DEMO.format(parallel=4))) as served, caller(served) as client:
        until(lambda: "Clients" in served.output, served)
        until(lambda: ask(client, "penstock-demo", max_tokens=1).status_code == 200, served)
        body = {
            "model": "penstock-demo",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "stream": True,
            "max_tokens": 1000,
            "n": 4,
            "ignore_eos": True,  # so that it takes a second or two
        }
        with client.stream("POST", "/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(line for line in lines if '"content"' in line)
            assert " is applied by 1 worker: " in reload(served, toml(old))
            assert len(engines(served.pid)) == 1
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        choices = [choice for line in rest[:-1] for choice in json.loads(line.removeprefix("data: "))["choices"]]
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"] * 4
        until(lambda: engines(served.pid) == [], served)


def test_a_terminal_that_is_closed_ends_what_was_started_on_it(old: ThreadedUpstream, tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(toml(old))
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", str(PENSTOCK), "serve", "--config", str(tmp_path / "penstock.toml")]
    command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
    variables = {name: os.environ[name] for name in INHERITED if name in os.environ} | {"HOME": str(tmp_path)}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables) as process:
        os.close(theirs)
        said = b""
        while b"/v1/chat/completions" not in said:
            said += os.read(ours, 65536)
        process.send_signal(signal.SIGHUP)  # the terminal is there: to read the configuration again
        while b"nothing else is to be changed" not in said:
            said += os.read(ours, 65536)
        os.close(ours)
        assert process.wait(START) == 0
