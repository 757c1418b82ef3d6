"""Whatever stands in the file, the outcome is a Config that can travel or a ConfigError."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from config_cases import ENV, TYPES
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Config, ConfigError, load

_words = st.sampled_from(
    (
        *("server", "providers", "models", "openai", "type", "targets", "listen", "limits", "api_key", "base_url"),
        *("deadlines", "ca_file", "headers", "extra", '"gpt-5.4"', "=", ".", "[", "]", "{", "}", ",", '"', "'", '"""'),
        *("1", "0x1F", "1e400", "nan", "true", '"openai"', '"anything"', '"env:KEY"', '"file:/"', '"~/x.gguf"', '"~"'),
        *("[[models]]", "[server]", "[providers.a]", '"\\u0000"', '"https://[::1"', "1979-05-27T07:32:00Z", "\n", "#"),
        *("\\", "\0", "é"),
    )
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def outcome(path: Path) -> Config | ConfigError:
    try:
        return load(path, ENV, TYPES)
    except ConfigError as error:
        return error


@given(st.one_of(st.lists(_words).map(" ".join), st.lists(_words).map("".join), st.text(), st.binary()))
def test_no_text_raises_anything_but_a_config_error(scratch: Path, content: str | bytes) -> None:
    path = scratch / "penstock.toml"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    result = outcome(path)
    if isinstance(result, ConfigError):
        assert len(str(result).splitlines()) == len(result.problems) > 0


_leaves = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(["openai", "anything", "env:KEY", "file:/x", "~/a.gguf", "https://h/v1", "", "\0", "unix:/x"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
_keys = st.sampled_from(
    (
        *("type", "targets", "provider", "model", "listen", "api_key", "base_url", "headers", "extra", "deadlines"),
        *("workers", "data_dir", "ca_file", "client_cert", "tls_cert", "tls_key", "trusted_proxies", "store", "limits"),
        *("openai", ""),
    )
)
_values = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4), max_leaves=8
)


def toml(value: object) -> str:
    """Any value as TOML writes it on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08X}" for char in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(name)} = {toml(item)}' for name, item in value.items())} }}"
    return repr(value)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("server", "providers", "models"), _values)))
def test_no_toml_raises_anything_but_a_config_error_and_what_loads_can_travel(
    scratch: Path, table: dict[str, object]
) -> None:
    path = scratch / "penstock.toml"
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in table.items()), encoding="utf-8")
    result = outcome(path)
    if isinstance(result, ConfigError):
        assert not [problem for problem in result.problems if problem.message.startswith("not TOML")]
        assert all(problem.fix and problem.line in range(1, len(table) + 2) for problem in result.problems)
    else:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=Config) == result
