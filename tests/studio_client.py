"""A studio that runs in this process, and plain clients of it, which may send what no browser does."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from latentopt.studio.audience import DRAWING
from latentopt.studio.serving import Address, listen, server
from latentopt.studio.session import Session


@dataclass
class Serving:
    address: Address
    session: Session

    @property
    def root(self) -> Path:
        return self.session.root

    @property
    def base(self) -> str:
        return f"/{self.address.token}/"

    def http(
        self, method: str, path: str, body: bytes | None = None, headers: dict | None = None, token: bool = True
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; the path is sent as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=30)
        connection.putrequest(method, (self.base + path) if token else path, skip_host="Host" in (headers or {}))
        for name, value in {"Content-Length": str(len(body or b"")), **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        if body:
            connection.send(body)
        answer = connection.getresponse()
        found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        connection.close()
        return found


@contextmanager
def serving(generator, root: Path) -> Iterator[Serving]:
    """A studio in a thread, at a free port."""
    root.mkdir(parents=True, exist_ok=True)
    address, session = listen(port=free_port()), Session(generator, root.resolve())
    found = server(session, address)
    thread = threading.Thread(target=found.run, kwargs={"sockets": [address.sock]}, daemon=True)
    thread.start()
    wait_for(lambda: found.started)
    yield Serving(address, session)
    found.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(is_so: Callable[[], object], seconds: float = 60.0) -> Any:
    """What `is_so` returns, once it is true."""
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


class Refused(Exception):
    """A socket that was not accepted, or was closed."""


class Socket:
    """A WebSocket of a page, or of somebody else."""

    def __init__(self, studio: Serving, path: str | None = None, headers: dict[str, str] | None = None) -> None:
        given = {"Origin": f"http://127.0.0.1:{studio.address.port}"} | (headers or {})
        host = given.pop("Host", f"127.0.0.1:{studio.address.port}")
        self.sock = socket.create_connection(("127.0.0.1", studio.address.port), timeout=30)
        self.connection = WSConnection(ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in given.items()]
        target = studio.base + "work" if path is None else path
        self.sock.sendall(self.connection.send(Request(host=host, target=target, extra_headers=extra)))
        self.events: list[Any] = []
        self.parts: list[str | bytes] = []
        self.next_event(AcceptConnection)

    def next_event(self, *kinds: type) -> Any:
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, RejectConnection | CloseConnection):
                    raise Refused(str(event))
                if isinstance(event, Ping):
                    self.sock.sendall(self.connection.send(event.response()))
                if isinstance(event, kinds):
                    return event
            data = self.sock.recv(1 << 16)
            if not data:
                raise Refused("ended")
            self.connection.receive_data(data)
            self.events += list(self.connection.events())

    def send(self, message: dict | str) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        try:
            sent = self.connection.send(TextMessage(text))
        except LocalProtocolError as error:  # the other side is closing
            raise Refused(str(error)) from error
        self.sock.sendall(sent)

    def receive(self) -> dict | tuple[int, int, bytes]:
        """The next message: JSON, or (kind, number, picture) of a frame."""
        parts: list[Any] = []
        while True:
            event = self.next_event(TextMessage, BytesMessage)
            parts.append(event.data)
            if event.message_finished:
                break
        if isinstance(parts[0], str):
            return json.loads("".join(parts))
        whole = b"".join(map(bytes, parts))
        return (*struct.unpack("<BI", whole[:5]), whole[5:])

    def until(self, is_so: Callable[[Any], object]) -> Any:
        """Receive up to the first message of which that is true."""
        while not is_so(message := self.receive()):
            pass
        return message

    def told(self, kind: str) -> dict:
        return self.until(lambda m: isinstance(m, dict) and m["kind"] == kind)

    def drawing(self) -> tuple[int, bytes]:
        """The number of the next drawing, and its picture."""
        return self.until(lambda m: isinstance(m, tuple) and m[0] == DRAWING)[1:]

    def job(self, message: dict) -> dict:
        """Ask for a job, and return it when it has ended."""
        self.send({"ticket": 77, **message})
        number = self.until(lambda m: isinstance(m, dict) and m.get("ticket") == 77)
        assert number["kind"] == "accepted", number
        ended = ("done", "failed", "stopped")

        def over(m):
            return isinstance(m, dict) and m["kind"] == "job" and m["job"]["id"] == number["job"]

        return self.until(lambda m: over(m) and m["job"]["status"] in ended)["job"]

    def close(self) -> None:
        self.sock.sendall(self.connection.send(CloseConnection(CloseReason.NORMAL_CLOSURE)))
        self.sock.close()

    def tear(self) -> None:
        """End without a word."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
