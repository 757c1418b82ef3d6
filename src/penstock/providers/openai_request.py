"""What of a request must differ at one target, worked out once for it from its row of capabilities.

`watched` names the members that something is done about, so that a request without any of them costs one comparison of
sets. What a target refuses is sent all the same, and the caller sees its own 400, unless the model is configured with
`drop_unsupported`, or there is an equivalent: the other name of a parameter, another role, and stop strings, which
`providers.openai_rewrite` then cuts at.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.providers.capabilities import NEUTRAL, Family
from penstock.wire.chat import ChatRequest
from penstock.wire.members import split
from penstock.wire.roles import may_have, rename_roles

_OTHER = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

_encode = msgspec.json.Encoder().encode


class Rules:
    """How requests to the models of one family are adapted. `drops`: whether unsupported parameters are left out.

    `cuts`: whether stop strings are cut at here, because the target refuses them. `roles`: what goes out instead of
    roles that it does not take. `watched`: the members for which there are rules. `touched`: these, and those that
    every provider of this kind may need in another form; a request without any goes out as it came.
    """

    __slots__ = ("_drops", "_family", "cuts", "roles", "touched", "watched")

    def __init__(self, family: Family, drops: bool) -> None:
        self._family = family
        self._drops = drops
        self.roles: Mapping[str, str] = dict(family.roles)
        self.cuts = not family.stop
        watched = {_OTHER.get(family.token_limit, "max_completion_tokens")}
        if self.cuts:
            watched.add("stop")
        watched |= {name for name, _ in family.names}
        if drops:
            watched |= {"reasoning_effort", *family.refused, *family.refused_reasoning}
        self.watched = frozenset(watched)
        self.touched = self.watched | {"stream", "stop", "tools", "store"}

    def adapt(self, chat: ChatRequest, put: dict[str, bytes]) -> tuple[str, ...]:
        """Add to `put` the members that are to be sent in another form; return those that are to be left out."""
        drop: list[str] = []
        understood = self._family.token_limit
        if understood == "both":
            # Both at once are an error at OpenAI, and the limit in force is the newer one's.
            if "max_completion_tokens" in chat.fields and "max_tokens" in chat.fields:
                drop.append("max_tokens")
        elif _OTHER[understood] in chat.fields:
            put[understood] = _encode(chat.max_tokens)
            drop.append(_OTHER[understood])
        for name, other in self._family.names:
            if name in chat.fields:
                put[other] = _encode(getattr(chat, name))
                drop.append(name)
        if self.cuts:
            drop.append("stop")
        drop += self.unsupported(chat)
        return tuple(drop)

    def rename(self, chat: ChatRequest, put: dict[str, bytes]) -> None:
        """Give messages the role that is sent instead of theirs."""
        if may_have(chat.body, self.roles):
            renamed = rename_roles(split(chat.body)["messages"], self.roles)
            if renamed is not None:
                put["messages"] = renamed

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        """The parameters that are left out, by name, because the target would refuse them."""
        if not self._drops:
            return ()
        family, effort, names = self._family, chat.reasoning_effort, []
        if effort is not None and family.efforts is not None and effort not in family.efforts:
            names.append("reasoning_effort")
            effort = None
        refused = family.refused
        if (effort or family.effort) != "none":
            refused += family.refused_reasoning
        names += [name for name in refused if name in chat.fields and getattr(chat, name) != NEUTRAL.get(name)]
        return tuple(names)
