"""The studio as a web application: the page's files, pictures in and out, and the socket for the work."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from latentopt.errors import LatentoptError, UsageError
from latentopt.studio import photos
from latentopt.studio.audience import Page
from latentopt.studio.messages import read_message
from latentopt.studio.places import inside, picture_path
from latentopt.studio.studio import Studio

PAGE = Path(__file__).parent / "page"
SUFFIXES = {
    ".png",
    ".safetensors",
    ".npz",
    ".toml",
    ".webp",
    ".mp4",
    ".json",
    ".jsonl",
    ".csv",
}  # of files to take away
SHOWN = {".png", ".webp", ".mp4"}  # in the page itself
MOST_FAULTS = 20  # messages that are none, before a socket is closed
TOO_LARGE = f"larger than {photos.MOST_BYTES >> 20} MB; make it smaller first"


def application(studio: Studio) -> Starlette:
    """All routes; `latentopt.studio.guard.Guard` stands before them."""
    receiving = asyncio.Semaphore(2)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        files = {path.name: path for path in PAGE.iterdir()}
        if name not in files:
            return Response(status_code=404)
        return FileResponse(files[name], media_type=mimetypes.guess_type(name)[0])

    async def receive_picture(request: Request) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > photos.MOST_BYTES:
            return _refused(TOO_LARGE, 413)
        async with receiving:
            data = bytearray()
            async for chunk in request.stream():
                data += chunk
                if len(data) > photos.MOST_BYTES:
                    return _refused(TOO_LARGE, 413)
            name = request.path_params["name"]
            try:
                key = await asyncio.to_thread(photos.received, studio.session.root, name, bytes(data))
            except LatentoptError as error:
                return _refused(str(error), 415)
        await asyncio.to_thread(studio.tell_lists)
        return JSONResponse({"picture": key})

    async def picture(request: Request) -> Response:
        try:
            path = picture_path(studio.session.root, request.path_params["key"])
            return Response(await asyncio.to_thread(photos.shown, path), media_type="image/png")
        except LatentoptError as error:
            return _refused(str(error), 404)

    async def file(request: Request) -> Response:
        try:
            path = inside(studio.session.root, request.path_params["name"])
        except UsageError as error:
            return _refused(str(error), 404)
        if not path.is_file() or path.suffix not in SUFFIXES:
            return _refused("no such file", 404)
        if path.suffix in SHOWN and "download" not in request.query_params:
            return FileResponse(path)
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def work(socket: WebSocket) -> None:
        page = Page(asyncio.get_running_loop())
        if not studio.audience.join(page):
            await socket.close(1013, "too many pages are open")
            return
        await socket.accept()
        sending = asyncio.create_task(_send_all(page, socket))
        try:
            await asyncio.to_thread(studio.welcome, page)
            await _receive_all(page, socket, studio)
        except (WebSocketDisconnect, RuntimeError):  # closed, perhaps while something was on its way
            pass
        finally:
            studio.leave(page)
            sending.cancel()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        studio.worker.start()
        yield
        await asyncio.to_thread(studio.close)

    routes = [
        Route("/", page),
        Route("/page/{name}", page),
        Route("/pictures/{name}", receive_picture, methods=["POST"]),
        Route("/picture/{key:path}", picture),
        Route("/files/{name:path}", file),
        WebSocketRoute("/work", work),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _refused(reason: str, status: int) -> Response:
    return JSONResponse({"error": reason}, status_code=status)


async def _send_all(page: Page, socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (message := await page.next()) is not None:
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_text(message)
        await socket.close(1008, "the page does not take what it is sent")


async def _receive_all(page: Page, socket: WebSocket, studio: Studio) -> None:
    faults = 0
    while faults < MOST_FAULTS:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        try:
            asked, ticket = read_message(message.get("text") or "")
        except UsageError as error:
            faults += 1
            page.send({"kind": "error", "text": str(error), "ticket": 0}, key="error")
            continue
        studio.handle(page, asked, ticket)
    await socket.close(1008, "too many messages that are none")
