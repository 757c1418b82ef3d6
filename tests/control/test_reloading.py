"""When the configuration file is read again, and what becomes of what it says."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from penstock.config import Config, load
from penstock.control import reloading
from penstock.control.reloading import ConfigFile, NotApplied, Reloader
from penstock.providers.registry import SETTINGS

GOOD = """
[providers.up]
type = "vllm"
base_url = "http://127.0.0.1:9/v1"

[models."gpt-5.4"]
targets = [{ provider = "up" }]
"""
OTHER = GOOD.replace("gpt-5.4", "another")


def file_at(path: Path, text: str = GOOD) -> ConfigFile:
    path.write_text(text)
    path.chmod(0o600)
    return ConfigFile(path, lambda: load(path, {"HOME": str(path.parent)}, SETTINGS))


def test_a_file_that_stays_is_not_read_again(tmp_path: Path) -> None:
    file = file_at(tmp_path / "penstock.toml")
    file.read()
    assert [file.changed() for _ in range(3)] == [False, False, False]


def test_a_file_that_changed_is_read_once_it_has_come_to_rest(tmp_path: Path) -> None:
    file = file_at(tmp_path / "penstock.toml")
    file.read()
    for size in range(1, 5):  # written piece by piece, with a look in between
        file.path.write_text(OTHER[: size * 20])
        assert not file.changed()
    file.path.write_text(OTHER)
    assert [file.changed(), file.changed(), file.changed()] == [False, True, True]
    assert list(file.read().models) == ["another"]
    assert not file.changed()


def test_a_file_of_the_same_size_and_time_that_was_put_in_its_place_is_another(tmp_path: Path) -> None:
    file = file_at(tmp_path / "penstock.toml")
    file.read()
    before = file.path.stat()
    after = tmp_path / "next"
    after.write_text(GOOD.replace("9/v1", "8/v1"))
    os.utime(after, ns=(before.st_atime_ns, before.st_mtime_ns))
    after.replace(file.path)
    assert [file.changed(), file.changed()] == [False, True]


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    for name, text in (("one", GOOD), ("two", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "penstock.toml").write_text(text)
    (tmp_path / "data").symlink_to("one")
    path = tmp_path / "penstock.toml"
    path.symlink_to("data/penstock.toml")
    file = ConfigFile(path, lambda: load(path, {}, SETTINGS))
    file.read()
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "data")
    assert [file.changed(), file.changed()] == [False, True]
    assert list(file.read().models) == ["another"]


def test_a_file_that_is_away_for_a_look_is_not_missed(tmp_path: Path) -> None:
    file = file_at(tmp_path / "penstock.toml")
    file.read()
    file.path.rename(tmp_path / "aside")
    assert not file.changed()
    (tmp_path / "aside").rename(file.path)
    assert [file.changed(), file.changed()] == [False, False]


def test_what_is_written_while_it_is_read_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"

    def write_meanwhile() -> Config:
        found = load(path, {}, SETTINGS)
        path.write_text(OTHER)
        return found

    path.write_text(GOOD)
    file = ConfigFile(path, write_meanwhile)
    file.read()
    assert [file.changed(), file.changed()] == [False, True]


def put(path: Path, text: str | None) -> None:
    """What the file says from now on; None for no file."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


class Applied:
    """Takes the configurations that are applied, and can be made to fail."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.problems: list[str] = []

    async def __call__(self, config: Config) -> int:
        self.configs.append(config)
        if self.problems:
            raise NotApplied(self.problems)
        return 2


class Lines(logging.Handler):
    """The lines of the log, and an event for each."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.news.set()

    async def until(self, part: str, since: int = 0) -> list[str]:
        async with asyncio.timeout(20):
            while not any(part in line for line in self.lines[since:]):
                self.news.clear()
                await self.news.wait()
        return self.lines[since:]


def with_reloader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Reloader, Path, Applied, Lines], Awaitable[None]],
) -> None:
    """Run a reloader that looks as often as it can."""
    monkeypatch.setattr(reloading, "LOOK", 0.01)

    async def main() -> None:
        file, applied, lines = file_at(tmp_path / "penstock.toml"), Applied(), Lines()
        reloader = Reloader(file, file.read(), applied)
        logger = logging.getLogger("penstock.config")
        monkeypatch.setattr(logger, "level", logging.INFO)
        logger.addHandler(lines)
        running = asyncio.create_task(reloader.run())
        try:
            await scenario(reloader, file.path, applied, lines)
            assert not running.done()
        finally:
            logger.removeHandler(lines)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def series(reloader: Reloader) -> dict[str, float]:
    return {"".join(one.labels) or "successful": one.value for one in reloader.series()}


def test_a_valid_change_is_applied_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        assert series(reloader) == {"applied": 0, "refused": 0, "failed": 0, "successful": 1}
        put(path, OTHER)
        await lines.until('is applied by 2 workers: models."gpt-5.4" (removed), models.another (added)')
        assert [list(config.models) for config in applied.configs] == [["another"]]
        assert series(reloader) == {"applied": 1, "refused": 0, "failed": 0, "successful": 1}

    with_reloader(tmp_path, monkeypatch, scenario)


def test_an_invalid_one_is_refused_with_every_problem_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        put(path, OTHER.replace('"up"', '"upp"') + "\n[nonsense]\nx = 1\n[retries]\nattempts = 0\n")
        said = await lines.until("attempts")
        assert "is not applied, the old configuration serves on: 3 problems" in said[0]
        assert [line.partition("penstock.toml:")[2].partition(":")[0] for line in said[1:]] == ["7", "9", "12"]
        assert all("Fix: " in line for line in said[1:])
        assert series(reloader) == {"applied": 0, "refused": 1, "failed": 0, "successful": 0}
        before = len(lines.lines)
        put(path, GOOD)
        await lines.until("nothing else is to be changed", before)
        assert applied.configs == []
        assert series(reloader) == {"applied": 0, "refused": 1, "failed": 0, "successful": 1}

    with_reloader(tmp_path, monkeypatch, scenario)


def test_a_file_that_is_gone_is_told_once_and_the_old_one_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        put(path, None)
        await lines.until("cannot be read: no such file")
        put(path, OTHER)
        await lines.until("is applied by 2 workers")
        assert sum("cannot be read" in line for line in lines.lines) == 1

    with_reloader(tmp_path, monkeypatch, scenario)


def test_a_setting_that_needs_a_restart_is_named_and_the_rest_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        put(path, "[server]\nworkers = 7\naccess_log = false\nauth_failures = 3\n" + GOOD)
        said = await lines.until("is applied by 2 workers: server.auth_failures")
        assert said[:2] == [
            f"server.{name} was changed, which needs a restart: the old value stays"
            for name in ("workers", "access_log")
        ]
        assert (applied.configs[0].server.workers, applied.configs[0].server.auth_failures) == (1, 3)

    with_reloader(tmp_path, monkeypatch, scenario)


def test_asked_it_reads_at_once_and_says_so_where_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        monkeypatch.setattr(reloading, "LOOK", 600.0)
        reloader.ask()
        await lines.until("nothing else is to be changed")
        put(path, OTHER)
        reloader.ask()
        await lines.until("is applied by 2 workers")

    with_reloader(tmp_path, monkeypatch, scenario)


def test_what_a_worker_did_not_take_is_told_and_given_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        applied.problems = ["worker 0 has no file to open", "worker 1 neither"]
        put(path, OTHER)
        await lines.until("is not applied: worker 1 neither")
        assert "is not applied: worker 0 has no file to open" in lines.lines[0]
        assert series(reloader) == {"applied": 0, "refused": 0, "failed": 1, "successful": 0}
        applied.problems = []
        reloader.ask()
        await lines.until("is applied by 2 workers")
        assert [list(config.models) for config in applied.configs] == [["another"], ["another"]]
        assert series(reloader) == {"applied": 1, "refused": 0, "failed": 1, "successful": 1}

    with_reloader(tmp_path, monkeypatch, scenario)


def test_many_changes_are_named_in_a_line_that_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(reloader: Reloader, path: Path, applied: Applied, lines: Lines) -> None:
        put(path, GOOD + "".join(f'[models.m{i}]\ntargets = [{{ provider = "up" }}]\n' for i in range(500)))
        (line,) = await lines.until("is applied by 2 workers")
        assert line.endswith("models.m19 (added) and 480 more")

    with_reloader(tmp_path, monkeypatch, scenario)


def test_without_a_file_there_is_nothing_to_watch(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        reloader = Reloader(None, Config(), Applied())
        with caplog.at_level(logging.INFO, "penstock.config"):
            reloader.ask()
        await asyncio.wait_for(reloader.run(), 20)

    asyncio.run(main())
    assert "nothing to read again" in caplog.text
