"""Listening sockets: what is opened, what is in the way, what is left behind."""

from __future__ import annotations

import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from penstock.control.sockets import Listener, ListenError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "penstock.sock"


def reachable(listener: Listener) -> bool:
    with socket.create_connection(listener.sockets[0].getsockname()[:2], timeout=5):
        return True


def test_port_zero_is_a_port_of_the_systems_choice() -> None:
    listener = Listener("127.0.0.1:0", "--listen")
    with closing(listener):
        assert listener.bound.port
        assert reachable(listener)
        assert len(listener.descriptors) == 1


def test_a_name_is_listened_on_at_each_of_its_addresses_with_one_port() -> None:
    with closing(Listener("localhost:0", "--listen")) as listener:
        addresses = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        bound = {sock.getsockname()[0] for sock in listener.sockets}
        assert bound
        assert bound <= addresses
        assert len({sock.getsockname()[1] for sock in listener.sockets}) == 1


def test_an_address_in_use_is_named_with_the_option_that_changes_it() -> None:
    with closing(Listener("127.0.0.1:0", "--listen")) as first:
        listen = f"127.0.0.1:{first.bound.port}"
        with pytest.raises(ListenError, match=f"cannot listen on {listen}.*already.*--admin-listen"):
            Listener(listen, "--admin-listen")


def test_a_host_that_is_not_there_is_told() -> None:
    with pytest.raises(ListenError, match="--listen"):
        Listener("192.0.2.1:0", "--listen")


def test_a_port_is_free_again_at_once() -> None:
    first = Listener("127.0.0.1:0", "--listen")
    listen = f"127.0.0.1:{first.bound.port}"
    assert reachable(first)
    first.close()
    Listener(listen, "--listen").close()


def test_a_unix_socket_is_for_owner_and_group_and_goes_with_its_server(path: Path) -> None:
    listener = Listener(f"unix:{path}", "--listen")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    listener.close()
    assert not path.exists()


def test_a_socket_that_a_dead_server_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    assert path.exists()
    with closing(Listener(f"unix:{path}", "--listen")), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_left_alone(path: Path) -> None:
    with closing(Listener(f"unix:{path}", "--listen")):
        with pytest.raises(ListenError, match="already"):
            Listener(f"unix:{path}", "--listen")
        assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        Listener(f"unix:{path}", "--listen")
    assert path.read_text() == "precious"


def test_a_socket_that_another_server_put_in_the_place_is_left_alone(path: Path) -> None:
    first = Listener(f"unix:{path}", "--listen")
    path.unlink()
    with closing(Listener(f"unix:{path}", "--listen")):
        first.close()
        assert path.exists()
