"""What the head of a GGUF file says about its model, read without loading it.

Only as much is read as it takes to find the two facts wanted here; the long lists (vocabulary, merges) mostly come
after them. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

_STRING = 8
_ARRAY = 9
# Sizes of the scalar types, by their number in the file.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MAX_TEXT = 16 * 1024 * 1024  # a chat template is the longest text there is
_MAX_ENTRIES = 1 << 20


class UnusableFile(Exception):
    """The file is missing, unreadable or no GGUF; the message names it."""


class Head(msgspec.Struct, frozen=True):
    """`trained_context`: the most tokens that the model was trained to see, 0 where the file does not say."""

    size: int  # bytes
    trained_context: int


def read_head(path: Path) -> Head:
    """The facts in the head of the file at `path`; raises UnusableFile."""
    try:
        with path.open("rb") as file:
            return Head(size=path.stat().st_size, trained_context=_trained_context(file))
    except OSError as error:
        raise UnusableFile(f"cannot load model {path}: {error.strerror or error}") from error
    except struct.error as error:
        raise UnusableFile(f"cannot load model {path}: its head is damaged") from error
    except ValueError as error:
        raise UnusableFile(f"cannot load model {path}: {error}") from error


def _trained_context(file: BinaryIO) -> int:
    magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError("it is not a GGUF file")
    version, _tensors, entries = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3) or entries > _MAX_ENTRIES:
        raise ValueError(f"GGUF version {version} is not supported, or the head is damaged")
    for _ in range(entries):
        name = _text(file)
        (kind,) = struct.unpack("<I", file.read(4))
        if name.endswith(b".context_length") and kind in (4, 5, 10, 11):
            return int.from_bytes(file.read(_SIZES[kind]), "little")
        _skip(file, kind)
    return 0


def _text(file: BinaryIO) -> bytes:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MAX_TEXT:
        raise ValueError("its head is damaged")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("the file is cut off")
    return text


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _text(file)
    elif kind == _ARRAY:
        of, count = struct.unpack("<IQ", file.read(12))
        if of == _STRING:
            for _ in range(count):
                _text(file)
        elif of in _SIZES:
            file.seek(_SIZES[of] * count, 1)
        else:
            raise ValueError("its head is damaged")
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise ValueError("its head is damaged")
