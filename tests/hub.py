"""A stand-in for the hub on the loopback interface: serves folders, and logs every request."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from autoround.model.files.stored import INDEX, SINGLE

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
#: Files of a licence, which an output needs too.
LEGAL = ("LICENSE", "NOTICE.md", "USE_POLICY.md")
#: Files that hold the weights once more.
NEVER = (
    "consolidated.safetensors",
    "model.fp16.safetensors",
    "original/consolidated.00.pth",
    "original/params.json",
    "pytorch_model.bin",
)
#: Codes of the hub's errors, and the status each comes with.
REFUSALS = {"RepoNotFound": 401, "RevisionNotFound": 404, "GatedRepo": 403, "EntryNotFound": 404}


@dataclass(frozen=True)
class Served:
    """One request that was answered; ``sent`` counts the bytes of its body."""

    method: str
    path: str
    status: int
    sent: int
    ranged: bool


@dataclass
class Hub:
    """Repositories and what was asked of them.

    repos: folders by ``owner/name`` and revision; the commit is a hash of the folder's path.
    gated: repositories that are listed, and whose files are given to nobody.
    """

    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    log: list[Served] = field(default_factory=list)
    endpoint: str = ""

    def commit(self, repo: str, revision: str = "main") -> str:
        """Return the commit of a revision."""
        return hashlib.sha1(str(self.repos[repo][revision]).encode()).hexdigest()

    def sent(self, file: str) -> list[Served]:
        """Return the requests that got bytes of a file of some repository."""
        return [x for x in self.log if x.path.endswith("/" + file) and x.sent]

    def downloads(self) -> list[str]:
        """Return the files that were sent, by their paths in the repository, in order of names."""
        return sorted(
            x.path.split("/resolve/")[1].split("/", 1)[1]
            for x in self.log
            if "/resolve/" in x.path and x.sent
        )

    def folder(self, repo: str, revision: str) -> Path | None:
        """Return the folder of a revision, by its name or commit."""
        for name, folder in self.repos[repo].items():
            if revision in (name, self.commit(repo, name)):
                return folder
        return None


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a hub until the block ends."""
    hub = Hub()
    with serve_at(_Handler, hub=hub) as hub.endpoint:
        yield hub


@contextmanager
def serve_at(handler: type[BaseHTTPRequestHandler], **attributes: object) -> Iterator[str]:
    """Serve until the block ends; gives the address.

    attributes: of the handler's class, by which requests reach what they are about.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), attributes))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        parts = unquote_parts(self.path)
        if parts[:2] == ["api", "models"]:
            self._api(parts[2:])
        elif parts[2:3] == ["resolve"]:
            self._resolve(parts)
        else:
            self._refuse("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 (the name that the server looks for)

    def _api(self, parts: list[str]) -> None:
        repo, what = "/".join(parts[:2]), parts[2:3]
        revision = parts[3] if len(parts) > 3 else "main"
        folder = self._folder(repo, revision)
        if folder is None:
            return
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if what == ["tree"]:
            self._json(
                [
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": _etag(p)}
                    for n, p in zip(names, files, strict=True)
                ]
            )
            return
        siblings = [{"rfilename": name} for name in names]
        sha = next(
            c for r in self.hub.repos[repo] if revision in (r, c := self.hub.commit(repo, r))
        )
        self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings})

    def _resolve(self, parts: list[str]) -> None:
        repo, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        folder = self._folder(repo, revision)
        if folder is None:
            return
        if repo in self.hub.gated:
            self._refuse("GatedRepo")
            return
        path = folder / file
        if not path.is_file():
            self._refuse("EntryNotFound")
            return
        data, ranged = path.read_bytes(), self.headers.get("Range")
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        if ranged is None:
            self._send(200, data, headers)
            return
        first, last = ranged.removeprefix("bytes=").split("-")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[int(first) : int(last) + 1 if last else None], headers)

    def _folder(self, repo: str, revision: str) -> Path | None:
        if repo not in self.hub.repos:
            self._refuse("RepoNotFound")
            return None
        folder = self.hub.folder(repo, revision)
        if folder is None:
            self._refuse("RevisionNotFound")
        return folder

    def _refuse(self, code: str) -> None:
        self._send(REFUSALS[code], b"", {"X-Error-Code": code, "X-Error-Message": f"{code} it is"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        body = b"" if self.command == "HEAD" else data
        ranged = "Range" in self.headers
        self.hub.log.append(Served(self.command, self.path, status, len(body), ranged))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: requests are in the hub's log."""


def unquote_parts(url: str) -> list[str]:
    """Return the parts of a URL's path; a revision may hold a quoted slash."""
    return [unquote(part) for part in urlsplit(url).path.strip("/").split("/")]


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def write_repo(checkpoint: Path, folder: Path) -> Path:
    """Write a checkpoint as repositories have them: in two shards, and everything else twice."""
    shutil.copytree(checkpoint, folder)
    (folder / SINGLE).unlink()
    tensors = load_file(checkpoint / SINGLE)
    names = sorted(tensors)
    weight_map = {}
    for shard, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    for name in LEGAL:
        (folder / name).write_text(f"this is {name}\n", encoding="utf-8")
    (folder / "original").mkdir()
    for name in NEVER:
        shutil.copy(folder / SHARDS[0], folder / name)
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Serve an empty hub."""
    with serve() as served:
        yield served


@pytest.fixture
def online(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let this process fetch from the stand-in alone, into a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.chdir(tmp_path)
    return hub
