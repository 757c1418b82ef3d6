"""The sampling parameters of llama.cpp that a caller may set beside OpenAI's own, and what they may be.

Names and meanings: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md. The ranges are the
widest in which each means something; what is outside is refused here, because the engine takes some of it silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from penstock.errors import InvalidRequest

_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Amount = Annotated[float, Meta(ge=0, le=1e6)]

PARAMETERS: Mapping[str, Any] = {
    "top_k": _Count,
    "min_p": _Share,
    "typical_p": _Share,
    "top_n_sigma": Annotated[float, Meta(ge=-1, le=1e6)],
    "xtc_probability": _Share,
    "xtc_threshold": _Share,
    "repeat_last_n": _Count,
    "repeat_penalty": Annotated[float, Meta(gt=0, le=1e6)],
    "dynatemp_range": _Amount,
    "dynatemp_exponent": _Amount,
    "dry_multiplier": _Amount,
    "dry_base": Annotated[float, Meta(ge=1, le=1e6)],
    "dry_allowed_length": _Count,
    "dry_penalty_last_n": _Count,
    "mirostat": Annotated[int, Meta(ge=0, le=2)],
    "mirostat_tau": _Amount,
    "mirostat_eta": _Amount,
    "min_keep": _Count,
    "ignore_eos": bool,
}


def sampling(unknown: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """The values of the parameters that OpenAI does not know; raises InvalidRequest for one that we do not either."""
    values: dict[str, Any] = {}
    for name, raw in unknown.items():
        kind = PARAMETERS.get(name)
        if kind is None:
            raise InvalidRequest(f"Unrecognized request argument supplied: {name[:64]}", param=name[:64])
        try:
            value = msgspec.json.decode(raw, type=kind | None)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"Invalid value for '{name}': {error}.", param=name, code="invalid_value") from error
        if value is not None:
            values[name] = value
    return values
