"""What is packaged agrees with the program: the systemd unit and the image name what there is, and give it its time."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from pathlib import Path

import click

from penstock.config import Limits
from penstock.control import parent, workers
from penstock.http.connection import LINGER_SECONDS
from penstock.verbs.serve import serve

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def options(command: list[str]) -> dict[str, object]:
    """What `penstock serve` makes of its arguments; raises click.UsageError for one that it does not have."""
    program, verb, *arguments = command
    assert (Path(program).name, verb) == ("penstock", "serve")
    with click.Context(serve) as context:
        return serve.make_parser(context).parse_args(arguments)[0]


def test_the_unit_starts_the_program_and_waits_for_as_long_as_it_may_take_to_end() -> None:
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((ROOT / "packaging" / "penstock.service").read_text(encoding="utf-8"))
    service = unit["Service"]
    assert options(shlex.split(service["ExecStart"])).keys() == {"file", "data_dir"}
    assert service["StateDirectory"] == "penstock"
    draining = Limits().drain_timeout + LINGER_SECONDS + workers.DRAIN_GRACE + workers.LINK_GRACE
    assert float(service["TimeoutStopSec"]) > draining + parent.STORE_GRACE + parent.STORE_LIMIT


def test_the_image_starts_the_program_from_files_that_are_there_and_not_left_out() -> None:
    (command,) = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    assert options(re.findall(r'"([^"]+)"', command))["listen"] == "0.0.0.0:8000"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {"pyproject.toml", "requirements/run.txt", "src", project["readme"], *project["license-files"]}
    everything, *let_in = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert everything == "*"
    assert wanted <= {line.removeprefix("!") for line in let_in if line.startswith("!")}
    assert all((ROOT / name).exists() for name in wanted)
    assert "libgomp1" in DOCKERFILE
    for base in re.findall(r"^FROM python:(\d+\.\d+)", DOCKERFILE, re.MULTILINE):
        assert f">={base}" == project["requires-python"]
