"""The head of a model's file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tiny_gguf import write_recital

from penstock.engine.gguf import UnusableFile, read_head


def test_a_head_tells_the_trained_context_and_the_size(tmp_path: Path) -> None:
    path = write_recital(tmp_path / "model.gguf", [b"one"], context=1234)
    head = read_head(path)
    assert head.trained_context == 1234
    assert head.size == path.stat().st_size


def test_facts_after_long_lists_are_found(tmp_path: Path) -> None:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    entries = [
        text(b"words") + struct.pack("<IIQ", 9, 8, 3) + text(b"a") + text(b"") + text(b"ccc"),
        text(b"numbers") + struct.pack("<IIQ", 9, 5, 4) + bytes(16),
        text(b"flag") + struct.pack("<I?", 7, True),
        text(b"name") + struct.pack("<I", 8) + text(b"x"),
        text(b"llama.context_length") + struct.pack("<II", 4, 77),
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    assert read_head(path).trained_context == 77
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries) - 1) + b"".join(entries[:-1]))
    assert read_head(path).trained_context == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a GGUF file"),
        (b"hello, world", "not a GGUF file"),
        (b"GGUF", "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 1), "version 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 10) + b"abc", "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 200), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 9, 5), "damaged"),
    ],
)
def test_a_file_that_is_no_model_is_told_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UnusableFile, match=said) as told:
        read_head(path)
    assert str(path) in str(told.value)


def test_a_missing_file_and_a_directory_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="No such file"):
        read_head(tmp_path / "absent.gguf")
    with pytest.raises(UnusableFile, match="Is a directory"):
        read_head(tmp_path)
