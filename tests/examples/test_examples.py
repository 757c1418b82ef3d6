"""Every file of examples/, run as its header says, the address and a key being in the environment.

With an upstream that holds the requests to OpenAI's rules for gpt-5.4 where tools or a schema are asked for, and with
the built-in model where words suffice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from penstock.fake_upstream import Answer
from penstock.fake_upstream.script import ToolCall
from support.serving import INHERITED, PENSTOCK, Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NODE_MODULES = ROOT / "tests" / "sdk" / "node" / "node_modules"
CLIENTS = ROOT / ".venv-clients" / "bin"
STAND_INS = Path(__file__).with_name("stand_ins")
UPSTREAM_KEY = "sk-of-the-provider"

CONFIG = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "env:UPSTREAM_KEY"

[models."gpt-5.4"]
targets = [{{ provider = "openai" }}]
"""

# No example sends anything to its maker, and the tests could not let it.
SILENT = {"LANGSMITH_TRACING": "false", "OPENAI_AGENTS_DISABLE_TRACING": "1", "AI_SDK_TELEMETRY_DISABLED": "1"}

WORDS = Answer(content="Whenever many callers fail at once.")
NUMBERS = Answer(content="One two three four five.")
WEATHER_ASKED = Answer(tool_calls=(ToolCall(name="get_weather", arguments='{"city": "Oslo"}'),))
WEATHER_TOLD = Answer(content="Yes, take an umbrella.")
RECIPE = Answer(content='{"title": "Aglio e olio", "minutes": 15}')


def run(example: str, served: Served, home: Path, arguments: Sequence[str] = ()) -> str:
    """What the example printed; it must have ended with status 0."""
    file = home / example
    shutil.copy(EXAMPLES / example, file)
    if file.suffix == ".mjs":
        (home / "node_modules").symlink_to(NODE_MODULES)
    runner = {".py": [str(CLIENTS / "python")], ".mjs": ["node"], ".sh": ["sh"]}[file.suffix]
    variables = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ} | SILENT
    variables |= {"OPENAI_BASE_URL": served.base_url, "OPENAI_API_KEY": served.key, "HOME": str(home)}
    variables["PATH"] = os.pathsep.join((str(STAND_INS), str(CLIENTS), os.environ["PATH"]))
    variables |= {"NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
    ran = subprocess.run(
        [*runner, str(file), *arguments],
        cwd=home,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr + served.output
    return ran.stdout


@pytest.fixture
def scripted(request: pytest.FixtureRequest) -> Iterator[tuple[Served, ThreadedUpstream]]:
    """A gateway in front of an upstream that gives the answers of the parameter, in turn, and those alone."""
    with (
        threaded_upstream(request.param, strict_profile="gpt-5.4", keys=[UPSTREAM_KEY]) as upstream,
        serving(CONFIG.format(base_url=upstream.base_url), environment={"UPSTREAM_KEY": UPSTREAM_KEY}) as served,
    ):
        yield served, upstream


@pytest.fixture(scope="module")
def local() -> Iterator[Served]:
    """A gateway with the built-in model."""
    with serving() as served:
        served.wait_for("/ready")
        yield served


@pytest.mark.parametrize("scripted", [[WORDS, NUMBERS, WEATHER_ASKED, WEATHER_TOLD, RECIPE]], indirect=True)
@pytest.mark.parametrize("example", ["openai_sdk.py", "openai_sdk.mjs"])
def test_openais_own_sdks_answer_stream_call_a_tool_and_parse(
    example: str, scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    printed = run(example, served, tmp_path)
    assert "plain: Whenever many callers fail at once." in printed
    assert "streamed: One two three four five. [" in printed
    assert "7 degrees and rain in Oslo" in printed
    assert "tool: Yes, take an umbrella." in printed
    assert "Aglio e olio" in printed.split("structured:")[1]
    assert len(upstream.seen) == 5
    assert upstream.seen[3].json()["messages"][-1]["role"] == "tool"


@pytest.mark.parametrize("scripted", [[NUMBERS, WEATHER_ASKED, WEATHER_TOLD, RECIPE]], indirect=True)
def test_langchain_streams_calls_a_tool_and_keeps_to_a_schema(
    scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    printed = run("langchain_chat.py", served, tmp_path)
    assert "streamed: One two three four five. [" in printed
    assert "tool: 7 degrees and rain in Oslo" in printed
    assert "tool: Yes, take an umbrella." in printed
    assert "structured: title='Aglio e olio' minutes=15" in printed
    assert upstream.seen[3].json()["response_format"]["type"] == "json_schema"


VERCEL_ASKED = Answer(tool_calls=(ToolCall(name="getWeather", arguments='{"city": "Oslo"}'),))


@pytest.mark.parametrize("scripted", [[NUMBERS, VERCEL_ASKED, WEATHER_TOLD, RECIPE]], indirect=True)
def test_vercels_ai_sdk_streams_calls_a_tool_and_keeps_to_a_schema(
    scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    printed = run("vercel_ai_sdk.mjs", served, tmp_path)
    assert "streamed: One two three four five." in printed
    assert "tool: 7 degrees and rain in Oslo" in printed
    assert "tool: Yes, take an umbrella." in printed
    assert "structured: { title: 'Aglio e olio', minutes: 15 }" in printed
    assert len(upstream.seen) == 4


ADVICE = Answer(content='{"umbrella": true, "reason": "It rains."}')


@pytest.mark.parametrize("scripted", [[WEATHER_ASKED, ADVICE]], indirect=True)
def test_pydantic_ai_calls_a_tool_and_validates_its_answer(
    scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    printed = run("pydantic_ai_agent.py", served, tmp_path)
    assert "structured: Advice(umbrella=True, reason='It rains.')" in printed
    assert "tokens in 2 requests" in printed
    asked = upstream.seen[1].json()
    assert asked["messages"][-1]["content"] == "7 degrees and rain in Oslo"
    assert asked["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("scripted", [[WEATHER_ASKED, WEATHER_TOLD]], indirect=True)
def test_an_agent_of_openais_agents_sdk_uses_its_tool(
    scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    printed = run("openai_agents.py", served, tmp_path)
    assert "tool: get_weather Oslo" in printed
    assert "agent: Yes, take an umbrella." in printed
    assert [seen.path for seen in upstream.seen] == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize(
    "scripted",
    [
        [
            Answer(tool_calls=(ToolCall(arguments='{"name": "Ada", "age": 360}'),)),
            Answer(tool_calls=(ToolCall(arguments='{"name": "Ada", "age": 36}'),)),
        ]
    ],
    indirect=True,
)
def test_instructor_asks_again_until_the_object_is_right(
    scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    assert "extracted: Person(name='Ada', age=36)" in run("instructor_extract.py", served, tmp_path)
    assert upstream.seen[0].json()["tool_choice"]["type"] == "function"
    assert "less than or equal to 150" in json.dumps(upstream.seen[1].json()["messages"])


def test_llm_streams_and_continues_with_the_built_in_model(local: Served, tmp_path: Path) -> None:
    answers = [line for line in run("llm.sh", local, tmp_path).splitlines() if line.strip()]
    assert len(answers) >= 2
    assert (tmp_path / ".config" / "llm-penstock" / "extra-openai-models.yaml").exists()


def test_curl_lists_answers_and_streams_with_the_built_in_model(local: Served, tmp_path: Path) -> None:
    printed = run("curl.sh", local, tmp_path)
    models, answer, stream = printed.split("\n", 2)
    assert "gpt-5.4" in [model["id"] for model in json.loads(models)["data"]]
    assert json.loads(answer)["choices"][0]["message"]["content"]
    assert stream.startswith("data: {")
    assert stream.rstrip().endswith("data: [DONE]")


def check_aider(printed: str) -> None:
    edit, commit = (json.loads(line) for line in printed.splitlines())
    assert edit["text"]
    assert commit["text"]
    assert {edit["finish_reason"], commit["finish_reason"]} <= {"stop", "length"}


def test_the_requests_that_aiders_flags_make_are_answered_by_the_built_in_model(local: Served, tmp_path: Path) -> None:
    check_aider(run("aider.sh", local, tmp_path, ["--message", "Add a line."]))


@pytest.mark.parametrize("scripted", [[WORDS, WORDS]], indirect=True)
def test_the_requests_that_aiders_flags_make_keep_to_the_rules_of_gpt_5_4(
    scripted: tuple[Served, ThreadedUpstream], tmp_path: Path
) -> None:
    served, upstream = scripted
    check_aider(run("aider.sh", served, tmp_path, ["--message", "Add a line."]))
    assert [seen.model for seen in upstream.seen] == ["gpt-5.4"] * 2


def test_a_team_has_a_budget_in_common_and_keys_that_work(local: Served, tmp_path: Path) -> None:
    variables = {"PATH": f"{PENSTOCK.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    variables |= {"PENSTOCK_DATA_DIR": str(local.data_dir)} | {
        name: os.environ[name] for name in INHERITED if name in os.environ and name != "PATH"
    }
    ran = subprocess.run(
        ["sh", str(EXAMPLES / "team.sh")], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    made = re.findall(r"\bsk-\S+", ran.stdout)
    assert len(made) == 2
    for meter in ("usd_per_month", "rpm", "concurrency", "tpm"):
        assert meter in ran.stdout
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
    for key in made:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{local.base_url}/chat/completions"
        assert httpx.post(url, json=body, headers=headers, trust_env=False, timeout=30.0).status_code == 200


def test_every_example_is_run_by_a_test_and_listed() -> None:
    files = {file.name for file in EXAMPLES.iterdir()} - {"README.md", "penstock.toml"}
    tests = Path(__file__).read_text("utf-8")
    assert {file for file in files if f'"{file}"' not in tests} == set()
    listed = re.findall(r"\[(\S+)\]\((\S+)\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert files <= {target for name, target in listed if name == target}


def test_every_example_opens_with_what_it_shows_and_how_to_run_it() -> None:
    for file in EXAMPLES.glob("*.[mps][jyh]*"):
        environment = "OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... "
        if file.name == "team.sh":  # of the operator's
            environment = "PENSTOCK_DATA_DIR="
        mark = "//" if file.suffix == ".mjs" else "#"
        shows, how, rest = file.read_text("utf-8").split("\n", 2)
        assert shows.startswith(f"{mark} "), file
        assert how.endswith(f" {file.name}") or f" {file.name} " in how, file
        assert environment in how, file
        assert rest.startswith("\n"), file
        assert "gpt-5.4" in rest, file
