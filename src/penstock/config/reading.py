"""Turns a TOML file, the environment and the command line into a Config, or into every problem at once."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from penstock.config import files, pricing, routes, serving, upstreams
from penstock.config.database import has_password
from penstock.config.lines import Lines
from penstock.config.problems import ConfigError, Problem
from penstock.config.shapes import (
    AnswersConfig,
    Breaker,
    Config,
    Counting,
    Ledger,
    Model,
    Retries,
    Server,
    TargetConfig,
    Upstream,
)
from penstock.config.typed import Faults, build, keep, unknown

MODEL: Final = "gpt-5.4"  # the name that every example asks for
DEMO: Final = "penstock-demo"

_FILE_BYTES = 1024 * 1024  # none is larger; what is, was meant for something else
_TABLES = ("server", "providers", "models", "retries", "breaker", "answers", "ledger", "prices", "limits")

_S = TypeVar("_S", bound=msgspec.Struct)


def load(path: Path, env: Mapping[str, str], types: upstreams.Types) -> Config:
    """The configuration in the file at `path`, with what `env` overrides.

    `types`: the Settings struct of each provider type. Raises ConfigError with every problem.
    """
    text, public = _text(path)
    table = _table(text, str(path))
    faults, outside = Faults(Lines(text)), Faults()
    unknown((name for name in table if name not in _TABLES), _TABLES, (), faults)
    server = (
        build(Server, keep(Server, table.get("server", {}), serving.PATH, faults), serving.PATH, faults) or Server()
    )
    server = _data_dir(serving.check(server, env, faults), env, faults, outside)
    raw_providers = _tables("providers", table, faults)
    raw_models = _tables("models", table, faults)
    providers = {name: upstreams.check(name, raw, types, env, faults) for name, raw in raw_providers.items()}
    models = {name: routes.check(name, raw, raw_providers, faults) for name, raw in raw_models.items()}
    if not raw_models and not faults.has(("models",)):
        fix = 'add [models."gpt-5.4"] and below it targets = [{ provider = "..." }]'
        faults.add(("models",), "no model is configured, so that nothing could be served", fix)
    retries = _settings("retries", Retries, table, faults)
    breaker = _settings("breaker", Breaker, table, faults)
    answers = _settings("answers", AnswersConfig, table, faults)
    ledger = _settings("ledger", Ledger, table, faults)
    raw_prices = _tables("prices", table, faults)
    prices = {name: pricing.check(name, raw, raw_providers, faults) for name, raw in raw_prices.items()}
    limits = _settings("limits", Counting, table, faults)
    if faults.found or outside.found:
        raise ConfigError([*faults.found, *outside.found], str(path))
    config = Config(
        server=server,
        providers={name: upstream for name, upstream in providers.items() if upstream is not None},
        models={name: model for name, model in models.items() if model is not None},
        retries=retries,
        breaker=breaker,
        answers=answers,
        ledger=ledger,
        prices={name: price for name, price in prices.items() if price is not None},
        limits=limits,
    )
    _warn(config, path if public else None, faults)
    return msgspec.structs.replace(config, warnings=tuple(faults.warnings))


def default(env: Mapping[str, str], model: str | None) -> Config:
    """What is served without a file: the weights in the file `model`, or OpenAI, or the built-in model.

    Raises ConfigError.
    """
    faults = Faults()
    if model is not None:
        files.gguf(model, ("--model",), faults)
        name = Path(model).stem
        if not routes.is_name(name):
            faults.add(
                ("--model",), "the file's name makes no model's name", "rename it, or write a configuration file"
            )
        provider = Upstream(name="local", type="llama", settings={"model": model})
        target = TargetConfig("local", name)
        models = {MODEL: Model((target,)), name: Model((target,))}
    elif env.get("OPENAI_API_KEY"):
        provider = Upstream(name="openai", type="openai", settings={"api_key": "env:OPENAI_API_KEY"})
        files.reference("env:OPENAI_API_KEY", env, ("OPENAI_API_KEY",), faults)
        models = {"*": Model((TargetConfig("openai"),))}
    else:
        provider = Upstream(name="demo", type="llama", settings={"model": "builtin"})
        target = TargetConfig("demo", DEMO)
        models = {MODEL: Model((target,)), DEMO: Model((target,))}
    server = _data_dir(Server(), env, faults, faults)
    if faults.found:
        raise ConfigError(faults.found)
    return Config(server=server, providers={provider.name: provider}, models=models)


def override(
    config: Config, *, listen: str | None, admin_listen: str | None, workers: int | None, data_dir: str | None
) -> Config:
    """What the command line says instead, under the same checks. Raises ConfigError."""
    faults = Faults()
    changes: dict[str, Any] = {}
    if workers is not None:
        apart = Faults()
        changes |= keep(Server, {"workers": workers}, (), apart)
        for problem in apart.found:
            faults.add(("--workers",), problem.message, problem.fix)
    if data_dir is not None:
        changes["data_dir"] = files.data_dir(data_dir, os.environ, ("--data-dir",), faults)
    changes |= {"listen": listen} if listen is not None else {}
    changes |= {"admin_listen": admin_listen} if admin_listen is not None else {}
    server = msgspec.structs.replace(config.server, **changes)
    serving.listen_apart(server, faults, ("--listen",), ("--admin-listen",))
    if faults.found:
        raise ConfigError(faults.found)
    return msgspec.structs.replace(config, server=server)


def _text(path: Path) -> tuple[str, bool]:
    """The file's text, and whether every user of this machine may read it."""
    try:
        with open(path, "rb") as file:
            public = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            content = file.read(_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
        raise _whole(path, f"cannot be read: {reason}", "give the path of a file that this user may read") from None
    if len(content) > _FILE_BYTES:
        raise _whole(path, "too large for a configuration file", "give the path of a TOML file of at most 1 MiB")
    try:
        return content.decode("utf-8-sig"), public
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem("", line, "not UTF-8", "save the file as UTF-8")], str(path)) from None


def _table(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one, as is a number of too many digits
        message, _, place = str(error).rpartition(" (at ")
        at = re.match(r"line (\d+)", place)
        line = int(at.group(1)) if at else text.rstrip().count("\n") + 1 if place else None
        message = message or str(error)
    except RecursionError:
        line, message = None, "nested too deeply"
    message = f"not TOML: {message[:1].lower()}{message[1:]}"
    raise ConfigError([Problem("", line, message, "correct the syntax; see https://toml.io")], file) from None


def _whole(path: Path, message: str, fix: str) -> ConfigError:
    return ConfigError([Problem("", None, message, fix)], str(path))


def _tables(name: str, table: dict[str, Any], faults: Faults) -> dict[str, Any]:
    raw = table.get(name, {})
    if isinstance(raw, dict):
        return raw
    faults.add((name,), "expected a table of tables", f"write [{name}.NAME] and its settings below it")
    return {}


def _settings(name: str, struct: type[_S], table: dict[str, Any], faults: Faults) -> _S:
    """A table of settings that all have a default."""
    return build(struct, keep(struct, table.get(name, {}), (name,), faults), (name,), faults) or struct()


def _data_dir(server: Server, env: Mapping[str, str], faults: Faults, outside: Faults) -> Server:
    """The environment's directory before the file's; `outside` takes the faults that no line of the file has."""
    given = env.get("PENSTOCK_DATA_DIR")
    if given:
        data_dir = files.data_dir(given, env, ("PENSTOCK_DATA_DIR",), outside)
    else:
        data_dir = files.data_dir(server.data_dir, env, (*serving.PATH, "data_dir"), faults)
    return msgspec.structs.replace(server, data_dir=data_dir)


def _warn(config: Config, public: Path | None, faults: Faults) -> None:
    """Note what is doubtful. `public`: the file, if every user of this machine may read it."""
    if public and has_password(config.server.store):
        fix = f"chmod 600 {public}, or write env:NAME or file:/path"
        faults.warn((*serving.PATH, "store"), "a password in a file that every user of this machine can read", fix)
    used = {target.provider for model in config.models.values() for target in model.targets}
    for name, upstream in config.providers.items():
        if name not in used:
            faults.warn(
                ("providers", name), "no model has it as a target", "remove it, or name it in a model's targets"
            )
        for at in upstreams.literal_secrets(upstream) if public else ():
            fix = f"chmod 600 {public}, or write env:NAME or file:/path"
            faults.warn(at, "a secret in a file that every user of this machine can read", fix)
