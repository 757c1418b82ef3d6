"""What a scenario found."""

from __future__ import annotations

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """`figures`: what was measured, fit to be shown; `wrong`: all that may not be; `seed`: what repeats the plan."""

    figures: dict[str, object]
    wrong: tuple[str, ...]
    seed: int | None = None

    def told(self) -> str:
        """All of it, in lines."""
        lines = [f"{name}: {value}" for name, value in self.figures.items()]
        lines += [f"WRONG: {what}" for what in self.wrong[:50]]
        if len(self.wrong) > 50:
            lines.append(f"WRONG: and {len(self.wrong) - 50} more")
        if self.wrong and self.seed is not None:
            lines.append(f"the seed was {self.seed}")
        return "\n".join(lines)
