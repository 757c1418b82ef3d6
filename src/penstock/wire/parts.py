"""Content that an assistant's answer gives in parts, joined to the text that clients know.

Answers of OpenAI have a string there, and clients fail on a list. Some servers send one: of texts, and, as Mistral's
reasoning models do (docs.mistral.ai, "Reasoning"), of a part "thinking" that holds texts of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def join(parts: Sequence[Any]) -> tuple[str, str]:
    """The text and the reasoning in the parts of one content. Raises ValueError where a part is neither."""
    text, reasoning = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text.append(part["text"])
        elif kind == "thinking" and isinstance(part.get("thinking"), str):
            reasoning.append(part["thinking"])
        elif kind == "thinking" and isinstance(part.get("thinking"), list):
            reasoning.append(join(part["thinking"])[0])
        else:
            raise ValueError("a part of the content is neither text nor reasoning")
    return "".join(text), "".join(reasoning)
