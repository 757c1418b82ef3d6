"""The [server] table beyond types."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import CERT, ENV, GOOD, KEY, OTHER_KEY, TYPES, only, problems, server, written

from penstock.config import Problem, load, summary


@pytest.mark.parametrize(
    ("listen", "admin_listen"),
    [("127.0.0.1:1", "127.0.0.1:1"), ("0.0.0.0:1", "127.0.0.1:1"), ("127.0.0.1:1", "[::]:1"), ("unix:/a", "unix:/a")],
)
def test_the_two_planes_need_two_addresses(tmp_path: Path, listen: str, admin_listen: str) -> None:
    problem = only(problems(tmp_path, server(f'listen = "{listen}"\nadmin_listen = "{admin_listen}"')))
    assert (problem.where, problem.line) == ("server.admin_listen", 3)


def test_two_ports_that_the_system_picks_are_two(tmp_path: Path) -> None:
    load(written(tmp_path, server('listen = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"')), ENV, TYPES)


@pytest.mark.parametrize(
    "store",
    ["sqlite", "postgresql://penstock@db.test/penstock", "postgresql:///penstock?host=/run/postgresql", "env:DATABASE"],
)
def test_a_store_is_a_file_or_a_postgresql_or_where_that_is_said(tmp_path: Path, store: str) -> None:
    env = {**ENV, "DATABASE": "postgresql://u:p@h/db"}
    assert load(written(tmp_path, server(f'store = "{store}"')), env, TYPES).server.store == store


@pytest.mark.parametrize(
    "store",
    ["mysql://u:hunter2@h/db", "postgres", "", "env:NOT_SET", "file:/none", "postgresql://u:hunter2@h:port/db"],
)
def test_another_store_is_refused_and_its_password_not_told(tmp_path: Path, store: str) -> None:
    problem = only(problems(tmp_path, server(f'store = "{store}"')))
    assert problem.where == "server.store"
    assert "hunter2" not in str(problem)


def test_a_password_in_a_file_that_everybody_reads_is_worth_a_word(tmp_path: Path) -> None:
    file = written(tmp_path, server('store = "postgresql://u:hunter2@h/db"'))
    file.chmod(0o644)
    config = load(file, ENV, TYPES)
    assert [warning.where for warning in config.warnings] == ["server.store"]
    assert "hunter2" not in str(config.warnings)
    assert "hunter2" not in summary(config)
    assert "PostgreSQL at h, database db" in summary(config)
    file.chmod(0o600)
    assert load(file, ENV, TYPES).warnings == ()


def test_the_path_of_a_file_that_names_the_store_is_expanded(tmp_path: Path) -> None:
    (tmp_path / "database").write_text("postgresql://u:p@h/db")
    config = load(written(tmp_path, server('store = "file:~/database"')), {**ENV, "HOME": str(tmp_path)}, TYPES)
    assert config.server.store == f"file:{tmp_path}/database"


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://user:word@h", "unix:///run/redis.sock"])
def test_counters_are_local_or_at_the_url_of_a_redis(tmp_path: Path, url: str) -> None:
    assert load(written(tmp_path, server(f'counters = "{url}"')), ENV, TYPES).server.counters == url
    assert only(problems(tmp_path, server(f'counters = "http+{url}"'))).where == "server.counters"


def test_a_certificate_and_its_key_belong_together(tmp_path: Path) -> None:
    for name, content in (("cert.pem", CERT), ("key.pem", KEY), ("other.pem", OTHER_KEY), ("text.pem", "hello")):
        (tmp_path / name).write_text(content)

    def found(lines: str) -> Problem:
        return only(problems(tmp_path, server(lines.replace("@", str(tmp_path)))))

    good = 'tls_cert = "~/cert.pem"\ntls_key = "~/key.pem"'
    config = load(written(tmp_path, server(good)), {**ENV, "HOME": str(tmp_path)}, TYPES)
    assert config.server.tls_cert == f"{tmp_path}/cert.pem"
    assert found('tls_cert = "@/cert.pem"').message == "set without tls_key"
    assert found('tls_key = "@/key.pem"').message == "set without tls_cert"
    assert found('tls_cert = "@/cert.pem"\ntls_key = "@/none.pem"').line == 3
    alone = problems(tmp_path, server('tls_key = "/none.pem"'))
    assert [problem.message.partition(":")[0] for problem in alone] == [
        "set without tls_cert",
        "/none.pem cannot be read",
    ]
    mismatch = found('tls_cert = "@/cert.pem"\ntls_key = "@/other.pem"')
    assert (mismatch.where, mismatch.message) == ("server.tls_key", "the key does not belong to the certificate")
    assert "cannot be loaded" in found('tls_cert = "@/text.pem"\ntls_key = "@/key.pem"').message


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy", "10.0.0.256", "10.0.0.0/33", ""])
def test_a_trusted_proxy_is_an_address_or_a_network(tmp_path: Path, text: str) -> None:
    assert only(problems(tmp_path, server(f'trusted_proxies = ["::1", "{text}"]'))).where == "server.trusted_proxies[1]"


@pytest.mark.parametrize("text", ["https://admin.example.com", "admin.example.com:8001", "", "a b"])
def test_an_admin_host_is_a_bare_name(tmp_path: Path, text: str) -> None:
    assert only(problems(tmp_path, server(f'admin_hosts = ["h", "{text}"]'))).where == "server.admin_hosts[1]"


def test_a_body_that_could_never_be_taken_is_no_limit(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, server("limits = { body_bytes = 2000, buffered_bytes = 1000 }")))
    assert problem.where == "server.limits.body_bytes"


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a directory" in only(problems(tmp_path, server(f'data_dir = "{tmp_path}/file"'))).message
    assert only(problems(tmp_path, server('data_dir = ""'))).message == "empty"
    problem = only(problems(tmp_path, GOOD, {**ENV, "PENSTOCK_DATA_DIR": f"{tmp_path}/file"}))
    assert (problem.where, problem.line) == ("PENSTOCK_DATA_DIR", None)


def test_an_element_of_the_wrong_type_moves_no_other(tmp_path: Path) -> None:
    found = problems(tmp_path, server('trusted_proxies = [1, "::1", 2,\n"x"]'))
    assert [(problem.where, problem.line) for problem in found] == [
        ("server.trusted_proxies[0]", 2),
        ("server.trusted_proxies[2]", 2),
        ("server.trusted_proxies[3]", 3),
    ]
