"""A stand-in for the Hugging Face Hub on this machine: the routes that its client uses to read and to write models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stand_in"


@dataclass
class Repo:
    """`commits`: {commit: {name: contents}}; `branches`: {name: commit}, tags among them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit with `files` over those of the branch."""
        contents = self.commits.get(self.branches.get(branch, ""), {}) | files
        listed = json.dumps([len(self.commits), {k: hashlib.sha1(v).hexdigest() for k, v in contents.items()}])
        number = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[number] = contents
        self.branches[branch] = number
        return number

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """repos: {user/repo: Repo}; requests: (method, path) of all that was asked; stored: large files by their hash."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    failing: int = 0  # answer everything with this status

    def repo(self, name: str, files: dict[str, bytes], **settings: Any) -> Repo:
        self.repos[name] = Repo(**settings)
        self.repos[name].commit(files)
        return self.repos[name]

    def files(self, name: str) -> dict[str, bytes]:
        repo = self.repos[name]
        return repo.commits[repo.branches["main"]]


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    ROUTES = (
        ("GET", rf"/api/models/{REPO}(?:/revision/(?P<revision>.+))?", "info"),
        ("GET|HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "resolve"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)", "preupload"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/stored/(?P<oid>\w+)", "store"),
        ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)", "commit"),
    )

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.failing:
            return self._json({"error": "out of order"}, self.hub.failing)
        for methods, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods.split("|"):
                return getattr(self, name)(**found.groupdict())
        self._json({"error": "no such route"}, 404)

    # ---- reading

    def info(self, repo: str, revision: str | None) -> None:
        if (found := self._found(repo, revision or "main")) is None:
            return
        commit, files = found
        siblings = [{"rfilename": name, "size": len(data), "blobId": "x"} for name, data in files.items()]
        self._json({"_id": "1", "id": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False})

    def resolve(self, repo: str, revision: str, file: str) -> None:
        if (found := self._found(repo, revision)) is None:
            return
        commit, files = found
        if file not in files:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(files[file]).hexdigest()
        self._send(files[file], 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def _found(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; answers where there is none, or the asker may not see it."""
        repo, known = self.hub.repos.get(name), self._is_known()
        if repo is None or (repo.private and not known):
            self._json({"error": "Repository not found"}, 404 if known else 401, {"X-Error-Code": "RepoNotFound"})
        elif repo.gated and not known:
            self._json({"error": "gated"}, 401, {"X-Error-Code": "GatedRepo"})
        elif (commit := repo.at(revision)) is None:
            self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return commit, repo.commits[commit]
        return None

    # ---- writing

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        if not self._may_write():
            return
        if name in self.hub.repos:
            return self._json({"error": "You already created this model repo"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repo(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self._json({"url": f"{self.hub.url}/{name}"})

    def validate(self) -> None:
        head = json.loads(self.body)["content"].split("---\n")
        whole = len(head) >= 3 and all(": " in line for line in head[1].splitlines())
        self._json({"warnings": [], "errors": [] if whole else [{"message": "no head"}]}, 200 if whole else 400)

    def preupload(self, repo: str, revision: str) -> None:
        if self._may_write():
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if _is_large(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(self.body)["files"]
            ]
            self._json({"files": modes})

    def batch(self, repo: str) -> None:
        objects = [
            {"oid": o["oid"], "size": o["size"]}
            | (
                {}
                if o["oid"] in self.hub.stored
                else {"actions": {"upload": {"href": f"{self.hub.url}/stored/{o['oid']}"}}}
            )
            for o in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects}, 200, kind="application/vnd.git-lfs+json")

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._json({"error": "another hash"}, 400)
        self.hub.stored[oid] = self.body
        self._send(b"", 200, {})

    def commit(self, repo: str, revision: str) -> None:
        if not self._may_write():
            return
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        number = self.hub.repos[repo].commit(files, revision)
        self._json({"success": True, "commitOid": number, "commitUrl": f"{self.hub.url}/{repo}/commit/{number}"})

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_write(self) -> bool:
        if not self._is_known():
            self._json({"error": "You don't have the rights"}, 403)
        return self._is_known()

    def _json(
        self, value: object, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        message = {"X-Error-Message": value["error"]} if isinstance(value, dict) and "error" in value else {}
        self._send(json.dumps(value).encode(), status, {"Content-Type": kind} | message | (headers or {}))

    def _send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".png"))
