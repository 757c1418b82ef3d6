"""One scripted OpenAI-compatible upstream for tests, ours and our users': right by default, broken on demand."""

from penstock.fake_upstream.script import Answer, Chunk, Cut, Fault, Rate, Script, ScriptError, Tokens, ToolCall, load
from penstock.fake_upstream.seen import Seen
from penstock.fake_upstream.server import FakeUpstream

__all__ = [
    "Answer",
    "Chunk",
    "Cut",
    "FakeUpstream",
    "Fault",
    "Rate",
    "Script",
    "ScriptError",
    "Seen",
    "Tokens",
    "ToolCall",
    "load",
]
