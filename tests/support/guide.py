"""What users of the service were promised: the guide's minimal request, to the letter."""

from __future__ import annotations

from typing import Any

GUIDE: dict[str, Any] = {
    "model": "gpt-5.4",
    "messages": [
        {
            "role": "system",
            "content": "You are a senior backend engineer. Explain approach first, then code.",
        },
        {
            "role": "user",
            "content": "Refactor this Node.js retry logic to exponential backoff and include a unit test.",
        },
    ],
    "temperature": 0.3,
    "max_tokens": 400,
    "stream": False,
}
