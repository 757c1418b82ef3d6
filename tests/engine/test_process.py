"""Engine processes: started, watched, restarted, stopped."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from running import PATIENCE, Running, running
from tiny_gguf import write_recital

from penstock.engine.process import MAX_SOCKET_PATH, Engine, UnusableDirectory
from penstock.engine.spec import EngineSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recital(tmp_path_factory.mktemp("model") / "talk.gguf", [b"one", b" two", b" three"])


@pytest.fixture
def engine(model: Path, tmp_path: Path) -> Iterator[Running]:
    with running(EngineSpec(str(model)), tmp_path / "run") as run:
        yield run.until_ready()


def child(run: Running) -> psutil.Process:
    assert run.engine.pid is not None
    return psutil.Process(run.engine.pid)


def test_an_engine_answers_at_its_address_to_those_who_know_its_token(engine: Running) -> None:
    status, answer = engine.ask("POST", "/completion", {"prompt": "\n", "temperature": 0})
    assert (status, answer["content"]) == (200, "one two three")
    status, _ = engine.ask("POST", "/completion", {"prompt": "\n"}, token="wrong")
    assert status == 401


def test_its_directory_is_private(engine: Running) -> None:
    directory = Path(engine.engine.address.uds).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_its_token_is_in_no_argument_and_no_environment(engine: Running) -> None:
    process = child(engine)
    assert engine.engine.address.token not in " ".join(process.cmdline())
    assert engine.engine.address.token not in " ".join(process.environ().values())


def test_a_killed_engine_is_restarted_at_the_same_address(engine: Running) -> None:
    address, first = engine.engine.address, child(engine)
    first.kill()
    reason = engine.next_change()
    assert reason is not None
    assert "killed by signal 9" in reason
    assert engine.next_change() is None
    assert engine.engine.address == address
    assert child(engine).pid != first.pid
    assert engine.ask("GET", "/health")[0] == 200


def test_an_engine_outlives_the_signals_that_the_whole_service_gets(engine: Running) -> None:
    process = child(engine)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert engine.ask("POST", "/completion", {"prompt": "\n", "temperature": 0})[0] == 200
    assert process.is_running()


def test_stopping_ends_the_process_and_removes_its_socket(model: Path, tmp_path: Path) -> None:
    with running(EngineSpec(str(model)), tmp_path) as run:
        process = child(run.until_ready())
    assert not process.is_running()
    assert not Path(run.engine.address.uds).exists()


def test_a_stopped_process_is_killed_when_it_does_not_hear(model: Path, tmp_path: Path) -> None:
    with running(EngineSpec(str(model)), tmp_path) as run:
        process = child(run.until_ready())
        process.suspend()
    assert not process.is_running()


def test_an_engine_ends_with_a_parent_that_is_killed(model: Path, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from penstock.engine.process import Engine\nfrom penstock.engine.spec import EngineSpec\n"
        "engine = Engine('x', EngineSpec(sys.argv[1]), Path(sys.argv[2]), lambda: print(engine.pid, flush=True))\n"
        "asyncio.run(engine.run())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(model), str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([process], timeout=PATIENCE)
    assert not alive


def test_a_socket_left_by_a_killed_process_is_no_hindrance(engine: Running) -> None:
    path = Path(engine.engine.address.uds)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    child(engine).kill()
    assert engine.next_change() is not None
    assert path.exists()
    assert engine.next_change() is None
    assert (path.stat().st_ino, path.stat().st_mtime_ns) != before


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"hello" * 999, "not a GGUF file"), (b"half", "corrupted or incomplete")],
)
def test_a_file_that_cannot_be_loaded_is_told_and_not_tried_again_and_again(
    model: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(model.read_bytes()[: model.stat().st_size // 2] if content == b"half" else content)
    with running(EngineSpec(str(path)), tmp_path / "run") as run:
        reason = run.next_change()
        assert reason is not None
        assert f"cannot load model {path}" in reason
        assert said in reason
        assert run.engine.pid is None
    assert run.changes.empty()


def test_context_and_room_for_it_are_as_asked_and_never_beyond_the_model(model: Path, tmp_path: Path) -> None:
    for asked, got in ((300, 300), (0, 4096), (100_000, 4096)):
        with running(EngineSpec(str(model), context=asked, parallel=2), tmp_path) as run:
            run.until_ready()
            slots = run.ask("GET", "/slots")[1]
        # The engine rounds up what it allocates, so a slot may be a little larger.
        assert [got <= slot["n_ctx"] < got + 256 for slot in slots] == [True, True]


def test_a_path_too_long_for_a_socket_is_refused_with_its_length(model: Path, tmp_path: Path) -> None:
    directory = tmp_path / ("x" * MAX_SOCKET_PATH)
    with pytest.raises(UnusableDirectory, match=f"at most {MAX_SOCKET_PATH}"):
        Engine("local", EngineSpec(str(model)), directory, lambda: None)


def test_an_open_directory_is_made_private(model: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Engine("local", EngineSpec(str(model)), tmp_path, lambda: None)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnusableDirectory, match="cannot use"):
        Engine("local", EngineSpec(str(model)), tmp_path / "file" / "run", lambda: None)


def test_names_of_any_character_get_sockets_of_their_own(model: Path, tmp_path: Path) -> None:
    names = ["a/b", "a b", "../x", "é" * 60]
    engines = [Engine(name, EngineSpec(str(model)), tmp_path, lambda: None) for name in names]
    paths = {Path(engine.address.uds) for engine in engines}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {tmp_path}
    assert len({engine.address.token for engine in engines}) == len(names)
