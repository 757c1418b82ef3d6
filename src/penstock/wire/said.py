"""What a client has been told of a stream so far, so that another answer can go on from there.

Fed with the very events that went out, it remembers their text and their reasoning, in order, and what the stream calls
itself. As soon as something went out that no other answer can go on from (a tool call, a refusal, a finish_reason, more
text than is remembered), it says so, and forgets the rest.
"""

from __future__ import annotations

import io

import msgspec

from penstock.wire.answer import BROKEN, ChunkChoice, RawObject, decode_chunk

MOST_CHARACTERS = 1024 * 1024
MOST_RUNS = 1000  # of text and of reasoning in turn

TEXT, REASONING = "content", "reasoning_content"  # as deltas name them

_NAMES = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_LONGEST = 4096  # bytes of one of them: each chunk repeats them

_object = msgspec.json.Decoder(RawObject).decode


class Said:
    """One stream of one choice. `unfit`: why nothing can go on from it, empty while something can.

    `names`: the members that every chunk has. `texts`: how many chunks had some.
    """

    __slots__ = ("_runs", "_size", "names", "texts", "unfit")

    def __init__(self, unfit: str = "", most: int = MOST_CHARACTERS) -> None:
        self.unfit = unfit
        self.names: RawObject = {}
        self.texts = 0
        # Kind and words; two in a row differ in kind. Not a list of pieces, since the upstream decides their number.
        self._runs: list[tuple[str, io.StringIO]] = []
        self._size = most

    def note(self, events: bytes) -> None:
        """Take whole events, framed plainly, none of which is the last of its stream."""
        if self.unfit:
            return
        try:
            for one in events.split(b"\n\n"):
                if one:
                    self._read(one[6:])
        except BROKEN:  # in a member that nobody had looked into before
            self._give_up("it cannot be read")

    @property
    def runs(self) -> list[tuple[str, str]]:
        """What was said, in order: TEXT or REASONING, and its words."""
        return [(kind, words.getvalue()) for kind, words in self._runs]

    @property
    def text(self) -> str:
        """The text alone."""
        return "".join(words for kind, words in self.runs if kind == TEXT)

    @property
    def reasoned(self) -> bool:
        """Whether there was any reasoning."""
        return any(kind == REASONING for kind, _ in self._runs)

    @property
    def size(self) -> int:
        """The bytes of all that was said."""
        return sum(len(words.encode()) for _, words in self.runs)

    def _read(self, data: bytes) -> None:
        if not self.names:
            members = _object(data)
            self.names = {
                name: members[name] for name in _NAMES if name in members and len(memoryview(members[name])) <= _LONGEST
            }
        for choice in decode_chunk(data).choices or ():
            self._hear(choice)

    def _hear(self, choice: ChunkChoice) -> None:
        delta = choice.delta
        if delta is not None:
            if delta.tool_calls or delta.function_call:
                self._give_up("a tool call was begun")
            elif delta.refusal:
                self._give_up("the model refused")
            for kind, words in ((REASONING, delta.reasoning_content or delta.reasoning), (TEXT, delta.content)):
                if words and isinstance(words, str) and not self.unfit:
                    self._add(kind, words)
        if choice.finish_reason:
            self._give_up("it was finished")

    def _add(self, kind: str, words: str) -> None:
        self.texts += 1
        self._size -= len(words)
        if self._size < 0 or len(self._runs) > MOST_RUNS:
            self._give_up("too much was said")
            return
        if not self._runs or self._runs[-1][0] != kind:
            self._runs.append((kind, io.StringIO()))
        self._runs[-1][1].write(words)

    def _give_up(self, why: str) -> None:
        self.unfit = self.unfit or why
        self._runs.clear()
