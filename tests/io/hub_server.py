"""A stand-in of the Hugging Face hub: an HTTP server in a thread that keeps repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Attributes: the files of each repository; `asked`, each request as method and path; `writable`, or 403;
    `refused`, the status and the code with which every file is refused."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.writable = True
        self.refused: tuple[int, str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.answer(404, b"{}", X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        wanted = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if self.path.startswith("/api/"):
            self.missing("RepoNotFound")
        elif wanted is None:
            self.answer(200)
        elif self.server.refused is not None:
            status, code = self.server.refused
            self.answer(status, **({"X_Error_Code": code, "X_Error_Message": code} if code else {}))
        else:
            self.file(*wanted.groups())

    def file(self, repo: str, revision: str, name: str) -> None:
        files = self.server.repositories.get(repo)
        if files is None:
            self.missing("RepoNotFound")
        elif revision not in {"main", COMMIT}:
            self.missing("RevisionNotFound")
        elif name not in files:
            self.missing("EntryNotFound")
        else:
            tag = hashlib.sha1(files[name]).hexdigest()
            self.answer(200, files[name], ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

    def do_GET(self) -> None:
        self.do_HEAD()

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.writable:
            return self.answer(403, b'{"error": "no write access"}')
        if self.path == "/api/repos/create":
            told = json.loads(sent)
            repo = "/".join(filter(None, (told.get("organization"), told["name"])))
            self.server.repositories.setdefault(repo, {})
            return self.said({"url": f"{self.server.address}/{repo}"})
        if self.path == "/api/validate-yaml":
            return self.said({"warnings": [], "errors": []})
        repo, what = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main(?:\?.*)?", self.path).groups()
        if what == "preupload":
            files = json.loads(sent)["files"]
            return self.said(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                self.server.repositories[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.said({"commitUrl": f"{self.server.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def said(self, what: object) -> None:
        self.answer(200, json.dumps(what).encode(), Content_Type="application/json")


@contextmanager
def serving() -> Iterator[Hub]:
    """The server, as long as the context lasts."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
