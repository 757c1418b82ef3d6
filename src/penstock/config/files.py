"""Checks what a configuration points at outside itself: files, certificates, secrets, the environment."""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Mapping

from penstock.config.problems import Path
from penstock.config.typed import Faults

_SECRET_BYTES = 64 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def expand(text: str, env: Mapping[str, str], path: Path, faults: Faults) -> str:
    """The path with a leading ``~`` replaced by the home directory."""
    if text == "~" or text.startswith("~/"):
        home = env.get("HOME") or os.path.expanduser("~")
        if not home.startswith("/"):
            faults.add(path, "there is no home directory to stand for ~", "write the whole path")
            return text
        return home + text[1:]
    if not text or not _is_text(text):
        faults.add(path, "not a path" if text else "empty", "write a path in UTF-8 without NUL")
    return text


def read_start(name: str, path: Path, faults: Faults, size: int = 1) -> bytes | None:
    """The first bytes of a regular file; None, and a fault, where it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):
            faults.add(path, f"{name} is not a file", "give the path of a file")
            return None
        with open(name, "rb") as file:
            return file.read(size)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        where = "" if name.startswith("/") else f" (a relative path starts at the working directory, {_here()})"
        faults.add(path, f"{name} cannot be read: {reason}", f"create it, permit reading it or correct the path{where}")
    except ValueError:  # a NUL
        faults.add(path, "not a path", "give the path of a file")
    return None


def gguf(name: str, path: Path, faults: Faults) -> None:
    """A file of weights, by its first bytes."""
    start = read_start(name, path, faults, 4)
    if start is not None and start != b"GGUF":
        faults.add(path, f"{name} is not a GGUF file", "give the path of a model in GGUF form")


def data_dir(text: str, env: Mapping[str, str], path: Path, faults: Faults) -> str:
    """The directory of the local state, which need not exist yet."""
    expanded = expand(text, env, path, faults)
    if not faults.has(path) and os.path.exists(expanded) and not os.path.isdir(expanded):
        faults.add(path, f"{expanded} is not a directory", "give the path of a directory; it is made if it is missing")
    return expanded


def pair(cert: str | None, key: str | None, paths: tuple[Path, Path], faults: Faults) -> None:
    """A certificate and its key: both or neither, readable, and made for each other."""
    if cert is None and key is None:
        return
    if cert is None or key is None:
        given, missing = (paths[1], paths[0]) if cert is None else paths
        faults.add(given, f"set without {missing[-1]}", f"set {missing[-1]} too, or remove {given[-1]}")
        read_start(cert or key or "", given, faults)
        return
    readable = [read_start(name, path, faults) is not None for name, path in zip((cert, key), paths, strict=True)]
    if not all(readable):
        return
    try:
        # A password is never asked for: Penstock starts without a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except OSError as error:  # SSLError is one
        reason = getattr(error, "reason", None) or "not PEM"
        if reason == "KEY_VALUES_MISMATCH":
            faults.add(paths[1], "the key does not belong to the certificate", "give the key of that certificate")
        else:
            fix = "give a certificate chain and a key without a password, both in PEM form"
            faults.add(paths[0], f"certificate and key cannot be loaded: {reason}", fix)


def authorities(name: str, path: Path, faults: Faults) -> None:
    """A bundle of certificates to trust."""
    if read_start(name, path, faults) is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name)
    except OSError:  # SSLError is one
        faults.add(path, f"{name} holds no certificates", "give a bundle of certificates in PEM form")


def reference(text: str, env: Mapping[str, str], path: Path, faults: Faults) -> None:
    """A secret kept elsewhere: ``env:NAME`` or ``file:/path``."""
    if text.startswith("env:"):
        name = text.removeprefix("env:")
        if not _VARIABLE.match(name):
            faults.add(path, "env: is followed by no name of a variable", "write env:NAME")
        elif name not in env:
            faults.add(path, f"the environment variable {name} is not set", f"set {name}, or write file:/path")
        else:
            _secret(env[name], f"the environment variable {name}", path, faults)
    elif text.startswith("file:"):
        name = expand(text.removeprefix("file:"), env, path, faults)
        content = None if faults.has(path) else read_start(name, path, faults, _SECRET_BYTES + 1)
        if content is not None:
            _secret(content.decode("utf-8", "replace"), name, path, faults)


def _secret(content: str, source: str, path: Path, faults: Faults) -> None:
    content = content.strip()
    if not content:
        faults.add(path, f"{source} is empty", "put the secret into it")
    elif len(content) > _SECRET_BYTES or not content.isascii() or not content.isprintable():
        faults.add(path, f"{source} holds no secret: not one line of plain text", "put the secret alone into it")


def _is_text(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "which is gone"
