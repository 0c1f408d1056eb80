"""Starting the studio's server on this machine: its address, its token, the browser."""

from __future__ import annotations

import errno
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from latentopt.errors import UsageError
from latentopt.studio.app import application
from latentopt.studio.guard import LOOPBACK, Guard
from latentopt.studio.session import Session
from latentopt.studio.studio import Studio

PORT = 8642  # where it is free
LARGEST_MESSAGE = 4 << 20  # bytes: a mask may be drawn on a picture of 1024 pixels


@dataclass(frozen=True)
class Address:
    """Where a studio listens."""

    sock: socket.socket
    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """What to open. The token is in its path."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'127.0.0.1' if name == '0.0.0.0' else name}:{self.port}/{self.token}/"


def listen(host: str = "127.0.0.1", port: int | None = None) -> Address:
    """Take a port, PORT or any where none is named. Raises UsageError where it is taken, or the host is not this."""
    for number in (PORT, 0) if port is None else (port,):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, number))
            sock.listen(64)
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE and port is None and number:
                continue
            raise UsageError(f"--host {host} --port {number}: {error.strerror or error}; name another") from None
        return Address(sock, host, sock.getsockname()[1], secrets.token_urlsafe(24))
    raise UsageError(f"--host {host}: no port is free")


def server(session: Session, address: Address) -> uvicorn.Server:
    """What serves a session there: `run(sockets=[address.sock])` does until it is told to stop."""
    is_open = address.host not in (*LOOPBACK, "::1")
    hosts = {*LOOPBACK, address.host, *([socket.gethostname()] if is_open else [])}
    guarded = Guard(application(Studio(session)), address.token, hosts, open=is_open)
    config = uvicorn.Config(
        guarded,
        ws="wsproto",
        ws_max_size=LARGEST_MESSAGE,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def serve(session: Session, address: Address, opened: bool, on_ready: Callable[[], object]) -> None:
    """Serve until Ctrl-C, and open the browser, where that is wanted. What a job has reached is saved at the end."""
    found = server(session, address)
    on_ready()
    if opened:
        threading.Timer(0.3, webbrowser.open, [address.url]).start()
    try:
        found.run(sockets=[address.sock])
    except KeyboardInterrupt:  # uvicorn has ended all in order, and raises what it was stopped with again
        return
