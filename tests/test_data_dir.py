"""The data directory and its secrets are private, and whole whoever else writes."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from penstock import data_dir
from penstock.data_dir import DataDirError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_is_its_owners_alone(tmp_path: Path) -> None:
    made = data_dir.prepare(str(tmp_path / "a" / "b"))
    assert made == tmp_path / "a" / "b"
    assert mode(made) == 0o700


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_dir.prepare("~/state") == tmp_path / "state"


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirError, match="--data-dir"):
            data_dir.prepare(str(path))


def test_a_secret_is_made_once_and_read_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "admin-key"
    assert data_dir.secret(path, lambda: "first") == "first"
    assert data_dir.secret(path, lambda: "second") == "first"
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["admin-key"]


def test_of_several_who_make_a_secret_at_once_all_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "admin-key"
    together = threading.Barrier(8)
    got: list[str] = []

    def make(number: int) -> str:
        together.wait()  # all have found none
        return f"secret {number}"

    def ask(number: int) -> None:
        got.append(data_dir.secret(path, lambda: make(number)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(got)) == 1
    assert os.listdir(tmp_path) == ["admin-key"]


def test_an_empty_secret_is_none(tmp_path: Path) -> None:
    path = tmp_path / "admin-key"
    path.write_text("\n")
    assert data_dir.read_secret(path) is None
    with pytest.raises(DataDirError, match="empty"):
        data_dir.secret(path, lambda: "new")


def test_what_is_no_text_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary", tmp_path):
        with pytest.raises(DataDirError, match="cannot read"):
            data_dir.read_secret(path)


def test_a_staged_secret_takes_its_place_at_once_and_privately(tmp_path: Path) -> None:
    path = tmp_path / "first-key"
    path.write_text("old")
    staged = data_dir.stage(path, "new")
    assert path.read_text() == "old"
    assert mode(staged) == 0o600
    staged.replace(path)
    assert data_dir.read_secret(path) == "new"


def test_a_secret_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="--data-dir"):
        data_dir.secret(tmp_path / "missing" / "admin-key", lambda: "x")
