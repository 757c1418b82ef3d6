"""The configuration: a TOML file and the environment in, frozen values out, every error at once.

`shapes` declares the settings; `reading` makes a Config of a file, the environment and the command line, with
`typed` (types, ranges, unknown names), `serving`, `upstreams`, `routes` and `pricing` (one table each), `files` (what
is pointed at) and `lines` (where in the file). What is wrong becomes a `Problem`; nothing is ever half accepted.
`changes` says what a running server takes of a new one.
"""

from penstock.config.address import Address, parse_listen
from penstock.config.changes import Changes, changes
from penstock.config.problems import ConfigError, Problem
from penstock.config.reading import default, load, override
from penstock.config.shapes import (
    AnswersConfig,
    Breaker,
    Config,
    Counting,
    Deadlines,
    KeyRoute,
    Ledger,
    Limits,
    Model,
    Price,
    Retries,
    Server,
    TargetConfig,
    Upstream,
)
from penstock.config.summary import summary

__all__ = [
    "Address",
    "AnswersConfig",
    "Breaker",
    "Changes",
    "Config",
    "ConfigError",
    "Counting",
    "Deadlines",
    "KeyRoute",
    "Ledger",
    "Limits",
    "Model",
    "Price",
    "Problem",
    "Retries",
    "Server",
    "TargetConfig",
    "Upstream",
    "changes",
    "default",
    "load",
    "override",
    "parse_listen",
    "summary",
]
