"""Secrets come from where they are kept, are fit for a header, and follow their files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from penstock.providers.secrets import Secret

WHERE = "providers.openai.api_key"


def replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


def test_a_secret_is_the_value_itself_or_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-file\n")
    assert Secret("sk-literal", WHERE).value == "sk-literal"
    assert Secret("env:KEY", WHERE, {"KEY": "sk-env"}).value == "sk-env"
    assert Secret(f"file:{path}", WHERE).value == "sk-file"


@pytest.mark.parametrize(
    "reference", ["", "sk\r\nx: y", "sk\n", "sk\x00", "schlüssel", " sk", "env:EMPTY", "env:BREAK"]
)
def test_a_value_unfit_for_a_header_is_refused_by_naming_the_setting_not_the_value(reference: str) -> None:
    with pytest.raises(ValueError, match=r"^providers\.openai\.api_key: ") as refusal:
        Secret(reference, WHERE, {"EMPTY": "", "BREAK": "sk-hidden\r\nx: y"})
    assert "hidden" not in str(refusal.value)


def test_a_missing_variable_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the environment variable NOPE is not set"):
        Secret("env:NOPE", WHERE, {})
    with pytest.raises(ValueError, match=r"cannot read .*nope: No such file"):
        Secret(f"file:{tmp_path / 'nope'}", WHERE)


def test_a_replaced_file_gives_the_new_value_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-1")
    secret = Secret(f"file:{path}", WHERE)
    assert not secret.refresh()
    replace(path, "sk-2")
    assert secret.refresh()
    assert secret.value == "sk-2"
    assert not secret.refresh()


def test_a_file_rewritten_in_place_at_the_same_size_gives_the_new_value(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-1")
    secret = Secret(f"file:{path}", WHERE)
    path.write_text("sk-2")
    os.utime(path, ns=(0, 1))
    assert secret.refresh()
    assert secret.value == "sk-2"


def test_a_vanished_empty_or_unfit_file_keeps_the_last_value_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    path.write_text("sk-1")
    secret = Secret(f"file:{path}", WHERE)
    path.unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not secret.refresh()
        assert secret.value == "sk-1"
        assert len(caplog.records) == 1
        for text in ("", "a\nb", "x" * 70_000):
            replace(path, text)
            assert not secret.refresh()
            assert secret.value == "sk-1"
    replace(path, "sk-2")
    assert secret.refresh()
    assert secret.value == "sk-2"


def test_a_mounted_secret_is_followed_through_its_link(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(f"sk-{version}")
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "1")
    secret = Secret(f"file:{link / 'key'}", WHERE)
    (tmp_path / "next").symlink_to(tmp_path / "2")
    os.replace(tmp_path / "next", link)
    assert secret.refresh()
    assert secret.value == "sk-2"
