"""The listening sockets, opened once by the parent and inherited by every worker, so that none is ever missed."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from penstock.config import Address, parse_listen

BACKLOG = 4096


class ListenError(Exception):
    """An address cannot be listened on; the message names it and says what to do."""


class Listener:
    """Sockets that listen at one configured address: several where a name has several addresses."""

    def __init__(self, listen: str, option: str) -> None:
        """`option`: what the operator gives to listen elsewhere. Raises ListenError."""
        self.address = parse_listen(listen)
        self.sockets: list[socket.socket] = []
        self._path: Path | None = None
        self._inode: tuple[int, int] | None = None
        try:
            if self.address.unix is not None:
                self._open_unix(Path(self.address.unix))
            else:
                self._open_tcp(self.address.host, self.address.port or 0)
        except OSError as error:
            self.close()
            raise ListenError(f"cannot listen on {listen}: {_reason(error)}; choose another with {option}") from error

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(sock.fileno() for sock in self.sockets)

    @property
    def bound(self) -> Address:
        """The address as it is, with the port that the system picked where 0 was asked for."""
        if self.address.unix is not None:
            return self.address
        return Address(self.address.host, self.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Close, and remove the unix socket's file unless somebody else has put theirs in its place."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        if self._path is not None and self._inode is not None and _inode(self._path) == self._inode:
            self._path.unlink(missing_ok=True)

    def _open_tcp(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = list(dict.fromkeys((family, address[0]) for family, _, _, _, address in found))
        for family, address in places:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # [::] alone takes both families; beside an IPv4 address of the same name it must not
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
                sock.bind((address, port))
                sock.listen(BACKLOG)
            except OSError as error:
                sock.close()
                # a name may have an address of a family that this machine does not have
                if error.errno == errno.EADDRNOTAVAIL and (self.sockets or (family, address) != places[-1]):
                    continue
                raise
            self.sockets.append(sock)
            port = sock.getsockname()[1]

    def _open_unix(self, path: Path) -> None:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sockets.append(sock)
        before = os.umask(0o117)  # from the first moment on, the socket is for its owner and group
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        self._path, self._inode = path, _inode(path)
        sock.listen(BACKLOG)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that is gone; raises OSError where something listens or is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full: something listens
    raise OSError(errno.EADDRINUSE, "")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something listens there already"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not"
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    return (error.strerror or str(error)).lower()
