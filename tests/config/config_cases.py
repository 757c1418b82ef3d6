"""Configurations to test with: a good one to spoil, types of provider, certificates."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from penstock.config import ConfigError, Problem, load

CERT = """\
-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUBBK7k0yZp7FHbf7e2ep2LqWfO2owCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzA5MjcwNFoYDzIxMjYxMDMw
MDkyNzA0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARuJ6rsBmuAMRpCFT4YfLmvqr+UjXOAh4B/qKnypOvqmiA/PA1cCy8o
i9yK8Hcg/xGEsI4megBGoXOS5vKrCRTVo1MwUTAdBgNVHQ4EFgQUCr/AkPNAt+vF
0uHJZfC/pUTbgKAwHwYDVR0jBBgwFoAUCr/AkPNAt+vF0uHJZfC/pUTbgKAwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAxkVbpXLZqGnBzayDZPojw
siD03k9TZCgKObxAocxLZwIgbatUb8bsr04tiDwDl8xl53qnjsbOoAIX/kH4f+Tk
VMM=
-----END CERTIFICATE-----
"""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgE8jIxpgUCKVc/fRJ
c0Iwkp6+HSB3WYd47OFOWlsE+CyhRANCAARuJ6rsBmuAMRpCFT4YfLmvqr+UjXOA
h4B/qKnypOvqmiA/PA1cCy8oi9yK8Hcg/xGEsI4megBGoXOS5vKrCRTV
-----END PRIVATE KEY-----
"""

OTHER_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJXAYbRBYMHFMO4pX
p6laB7DruxMUFP6vQfSm7hxrDZWhRANCAATwZdJ+c+/Fjiu8dDkDBfcXzsOWndyY
HNeFl27mrN1zRAHdP4etg+QIaTIOtVLPqFi5rA7PzBime7IfjJBckl+T
-----END PRIVATE KEY-----
"""


class RemoteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    base_url: str | None = None
    api_key: str | tuple[str, ...] | None = None
    headers: dict[str, str] = {}


class WeightsSettings(msgspec.Struct, frozen=True):
    model: str
    context: int = 4096

    def problems(self, env: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str, str]]:
        if self.context % 2:
            yield ("context",), "odd", f"ask {env.get('WHOM', 'nobody')}"


class AnythingSettings(msgspec.Struct, frozen=True):
    extra: object = None


TYPES: Mapping[str, type[msgspec.Struct]] = {
    "openai": RemoteSettings,
    "llama": WeightsSettings,
    "anything": AnythingSettings,
}
ENV = {"HOME": "/home/ann", "KEY": "sk-1"}

GOOD = """\
[providers.openai]
type = "openai"
api_key = "env:KEY"

[models."gpt-5.4"]
targets = [{ provider = "openai" }]
"""


def written(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "penstock.toml"
    path.write_bytes(textwrap.dedent(text).encode("utf-8", "surrogatepass"))
    path.chmod(mode)
    return path


def problems(directory: Path, text: str, env: Mapping[str, str] = ENV) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(written(directory, text), env, TYPES)
    return list(caught.value.problems)


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def server(line: str) -> str:
    """The good configuration with one setting of [server] at line 2."""
    return f"[server]\n{line}\n{GOOD}"


def provider(lines: str) -> str:
    """The good configuration with settings of the provider from line 4 on."""
    return GOOD.replace('api_key = "env:KEY"\n', f'api_key = "env:KEY"\n{lines}\n')
