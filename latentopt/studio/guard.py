"""Who may talk to the studio: this machine's user alone, by an address that holds a secret.

Every request names the token in its path. Host must be an address that the studio listens at, so that a name which
another site turns to this machine does not reach it; Origin, where a browser sends one, must be the studio's own, so
that no other page may drive it.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
REFUSED = 4403  # the code that a socket is closed with


@dataclass(frozen=True)
class Guard:
    """An application behind its checks. hosts: the names that a Host may have; any address, where `open` is set."""

    app: ASGIApp
    token: str
    hosts: Collection[str] = LOOPBACK
    open: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        reason = self.refusal(scope)
        if reason is None:
            inner = dict(scope) | {"path": "/" + scope["path"].split("/", 2)[2], "root_path": ""}
            await self.app(inner, receive, _with_headers(send, self._policy(Headers(scope=scope))))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": REFUSED, "reason": reason[:100]})
        else:
            response = PlainTextResponse(reason + "\n", status_code=403, headers=HEADERS)
            await response(scope, receive, send)

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is refused; None where it is not."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._known(host):
            return "this is not the address that the studio listens at"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "another page may not drive the studio"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "another page may not drive the studio"
        parts = scope["path"].split("/", 2)
        if len(parts) < 3 or not secrets.compare_digest(parts[1].encode(), self.token.encode()):
            return "the address lacks the studio's token: open the one that latentopt studio has printed"
        return None

    def _known(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self.open

    @staticmethod
    def _policy(headers: Mapping[str, str]) -> dict[str, str]:
        socket = f"ws://{headers.get('host', '')}"
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
            f"connect-src 'self' {socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        return HEADERS | {"Content-Security-Policy": policy}


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _with_headers(send: Send, added: Mapping[str, Any]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in added.items():
                headers[name] = value
        await send(message)

    return sending
