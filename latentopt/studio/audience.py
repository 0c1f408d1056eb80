"""The pages that are open: what each is still to be sent, and telling all of them something, from any thread."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST_PAGES = 16
MOST_WAITING = 500  # messages to a page that does not take them

Sent = str | bytes
FRAME = struct.Struct("<BI")  # what a picture is of (a drawing or a job), and the number of that
DRAWING, JOB = 0, 1


def frame(kind: int, number: int, picture: bytes) -> bytes:
    """A picture as it is sent."""
    return FRAME.pack(kind, number & 0xFFFFFFFF) + picture


class Page:
    """One open page. A message under a key replaces the one that still waits under it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: OrderedDict[object, Sent] = OrderedDict()
        self._ready = asyncio.Event()
        self._numbers = itertools.count()
        self.lost = False  # it does not take what it is sent

    def send(self, message: Sent | dict[str, Any], key: str | None = None) -> None:
        """From any thread."""
        sent = json.dumps(message, allow_nan=False) if isinstance(message, dict) else message
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, sent, key)

    def _put(self, sent: Sent, key: str | None) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.lost = True
        else:
            self._waiting[next(self._numbers) if key is None else key] = sent
        self._ready.set()

    async def next(self) -> Sent | None:
        """What to send next; None where the page is lost."""
        while not self._waiting and not self.lost:
            self._ready.clear()
            await self._ready.wait()
        return None if self.lost else self._waiting.popitem(last=False)[1]


class Audience:
    """All open pages."""

    def __init__(self) -> None:
        self._pages: tuple[Page, ...] = ()  # replaced as a whole, so that any thread may go through it

    def __len__(self) -> int:
        return len(self._pages)

    def join(self, page: Page) -> bool:
        """False where too many are open."""
        if len(self._pages) >= MOST_PAGES:
            return False
        self._pages = (*self._pages, page)
        return True

    def leave(self, page: Page) -> None:
        self._pages = tuple(other for other in self._pages if other is not page)

    def tell(self, message: Sent | dict[str, Any], key: str | None = None) -> None:
        """Send all pages a message."""
        for page in self._pages:
            page.send(message, key)


Tell = Callable[..., None]
