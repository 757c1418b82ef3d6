"""Scripts: what is accepted, and how what is not is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.fake_upstream.script import Answer, Chunk, Cut, ScriptError, Tokens, load, parse

TOML = """
[[models."gpt-5.4"]]
status = 429
retry_after = 1.5

[[models."gpt-5.4"]]
chunks = ["Hel", { text = "lo", wait = 0.25 }, { data = '{"error":{"message":"boom"}}' }]
usage = { prompt = 3, completion = 2 }
write = [1, 2, 400]
cut = { after_events = 2, how = "reset" }

[[models."*"]]
body_bytes = "AP8="

[[paths."/v1/embeddings"]]
body = "{}"
"""


def test_a_toml_script_becomes_answers_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text(TOML)
    script = load(path)
    first, second = script.models["gpt-5.4"]
    assert (first.status, first.retry_after) == (429, 1.5)
    assert second.chunks == ("Hel", Chunk(text="lo", wait=0.25), Chunk(data='{"error":{"message":"boom"}}'))
    assert second.usage == Tokens(prompt=3, completion=2)
    assert second.write == (1, 2, 400)
    assert second.cut == Cut(after_events=2, how="reset")
    assert script.models["*"][0].body_bytes == b"\x00\xff"
    assert script.paths["/v1/embeddings"][0].body == "{}"


def test_a_json_script_says_the_same_as_a_toml_one(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text('{"models": {"*": [{"content": "Hello.", "wait": "forever"}]}}')
    assert load(path).models == {"*": (Answer(content="Hello.", wait="forever"),)}


def test_every_error_of_a_script_is_named_with_its_place() -> None:
    data = {
        "modles": {},
        "models": {
            "a": [{"statuss": 200}, {"status": 200}, {"status": 7}],
            "b": [],
            "c": [{"chunks": [{"text": "x", "raw": "y"}]}],
            "d": [{"cut": {"how": "close"}}],
            "e": [{"write": [0]}],
            "f": [{"wait": -1}],
            "g": [{"headers": {"x": "a\r\nb: c"}}],
            "h": [{"body": "x", "raw": "y"}],
            "i": [{"between": float("nan")}],
        },
        "rate": {"per_second": 0},
    }
    with pytest.raises(ScriptError) as caught:
        parse(data)
    expected = (
        "unknown table `modles`: a script has `models`, `paths` and `rate`",
        'models."a"[0]: Object contains unknown field `statuss`',
        'models."a"[2]: status must be a number of three digits',
        'models."b": must be a list of at least one answer',
        'models."c"[0]: a chunk has exactly one of text, reasoning, data and raw - at `$.chunks[0]`',
        'models."d"[0]: a cut has exactly one of after_bytes and after_events, 0 or more - at `$.cut`',
        'models."e"[0]: sizes must be 1 or more',
        "models.\"f\"[0]: wait must be seconds, a gate's name or 'forever'",
        "models.\"g\"[0]: header 'x': neither name nor value may hold control characters; use raw",
        'models."h"[0]: body and raw exclude each other',
        "models.\"i\"[0]: between must be seconds, a gate's name or 'forever'",
        "rate: per_second must be above 0",
    )
    assert caught.value.errors == list(expected)


@pytest.mark.parametrize("text", ["[[models", "\x00", '[1]\nx = "'])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(ScriptError, match=r"script\.toml: "):
        load(path)


@pytest.mark.parametrize("data", [[], "x", {"models": []}, {"models": {"x": "y"}}, {"paths": {"/": [3]}}])
def test_a_script_of_the_wrong_shape_is_refused(data: object) -> None:
    with pytest.raises(ScriptError):
        parse(data)


def test_a_file_cannot_wait_for_a_gate_that_nobody_could_open(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text(
        '[[models."a"]]\nwait = "soon"\nheaders = { wait = "x" }\nchunks = ["a", { text = "b", wait = "later" }]\n'
        '[[models."b"]]\nwait = "forever"\ncut = { after_bytes = 1, wait = 0.5 }\n'
    )
    with pytest.raises(ScriptError) as caught:
        load(path)
    assert caught.value.errors == [
        f"{path}: models.a.0.wait: a wait is a number of seconds, or 'forever', not 'soon'",
        f"{path}: models.a.0.chunks.1.wait: a wait is a number of seconds, or 'forever', not 'later'",
    ]
