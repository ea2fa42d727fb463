"""A stand-in for the hub on the loopback interface that takes uploads, by its own protocol."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from .hub import serve_at

#: The token that may write.
TOKEN = "hf_of_a_test"
#: Owner that no token may write for.
FOREIGN = "somebody-else"


@dataclass
class Repo:
    """A repository: whether it is private, and the files of its branches."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})


@dataclass
class UploadHub:
    """Repositories by name, objects by their SHA-256, and what was asked for."""

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def serve_uploads() -> Iterator[UploadHub]:
    """Serve a hub until the block ends."""
    hub = UploadHub()
    with serve_at(_Handler, hub=hub) as hub.endpoint:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub

    def do_GET(self) -> None:
        parts = self.note()
        repo = self.hub.repos.get("/".join(parts[2:4]))
        if parts[:2] != ["api", "models"] or repo is None:
            self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        name = "/".join(parts[2:4])
        self.reply(200, {"id": name, "private": repo.private, "sha": "0" * 40, "siblings": []})

    def do_PUT(self) -> None:
        parts = self.note()
        data = self.body()
        assert hashlib.sha256(data).hexdigest() == parts[1], "an object of another content"
        self.hub.objects[parts[1]] = data
        self.reply(200, {})

    def do_POST(self) -> None:
        parts = self.note()
        data = self.body()
        # Links to the storage are signed; nobody sends a token there.
        if parts[0] != "verify" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
        elif parts == ["api", "repos", "create"]:
            self.create(json.loads(data))
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self.batch(json.loads(data))
        elif parts[0] == "verify" or parts == ["api", "validate-yaml"]:
            # The metadata of a card is looked at before it is committed.
            self.reply(200, {"errors": [], "warnings": []})
        else:
            self.change("/".join(parts[2:4]), parts[4], "/".join(parts[5:]), data)

    def create(self, values: dict[str, Any]) -> None:
        name = f"{values['organization']}/{values['name']}"
        if values["organization"] == FOREIGN:
            self.reply(403, {"error": "You don't have the rights"})
            return
        status = 409 if name in self.hub.repos else 200
        # Releases of the client differ in how they say it.
        private = values.get("visibility") == "private" or values.get("private") is True
        self.hub.repos.setdefault(name, Repo(private))
        self.reply(status, {"url": f"{self.hub.endpoint}/{name}", "id": name})

    def batch(self, values: dict[str, Any]) -> None:
        objects = []
        for item in values["objects"]:
            known = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                href = f"{self.hub.endpoint}/put/{item['oid']}"
                verify = f"{self.hub.endpoint}/verify"
                known["actions"] = {"upload": {"href": href}, "verify": {"href": verify}}
            objects.append(known)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def change(self, name: str, what: str, revision: str, data: bytes) -> None:
        branches = self.hub.repos[name].branches
        if what == "branch":
            self.reply(409 if revision in branches else 200, {})
            branches.setdefault(revision, {})
        elif what == "preupload":
            files = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for item in json.loads(data)["files"]
            ]
            self.reply(200, {"files": files})
        elif what == "commit":
            for line in data.splitlines():
                self.apply(branches[revision], json.loads(line))
            url = f"{self.hub.endpoint}/{name}/commit/{'1' * 40}"
            self.reply(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url})
        else:
            self.reply(404, {"error": what})

    def apply(self, files: dict[str, bytes], entry: dict[str, Any]) -> None:
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            files[value["path"]] = self.hub.objects[value["oid"]]

    def note(self) -> list[str]:
        self.hub.log.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: requests are in the hub's log."""
