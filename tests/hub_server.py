"""A stand-in for the Hub on the loopback, with faults that tests switch on, and a way to pull.

Small files are answered at once. Large ones, `.safetensors` and `.pth`, are redirected to another
host name, `localhost` instead of `127.0.0.1`, as the Hub redirects to its storage.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "someone/model"
COMMIT = "c0ffee00" * 5
LATER = "decade00" * 5
TOKEN = "hf_notARealToken"
LARGE = "big/model.safetensors"
FILES = {
    LARGE: Random(1).randbytes(5_000_000),
    "big/index.json": b'{"weight_map": {}}',
    "big/empty.txt": b"",
    "config.json": b'{"a": 1}',
    "other/not asked for.pth": Random(2).randbytes(100_000),
}
WANTED = ("big/", "config.json")


@dataclass(frozen=True)
class Request:
    """What was asked, and of whom."""

    method: str
    path: str
    host: str
    range: str | None
    authorization: str | None


@dataclass
class Faults:
    """What goes wrong; everything is right at first.

    Attributes:
        status: a word in a request's path, to the status and the error code it is answered with.
        retry_after: seconds that such an answer asks to wait.
        cuts: after how many bytes the line is cut, for each of the next bodies of large files.
        flips: of how many of the next bodies a byte is flipped.
        lengthen: how many bytes too many each body has; fewer if negative.
        ignore_range: bodies are always whole.
        wrong_range: ranges begin a byte late.
        answer: raw JSON to answer to a path that ends in the key.
        headers: headers of answers to a file that replace the right ones.
    """

    status: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    retry_after: int | None = None
    cuts: list[int] = field(default_factory=list)
    flips: int = 0
    lengthen: int = 0
    ignore_range: bool = False
    wrong_range: bool = False
    answer: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".pth"))


def blob_of(path: str, content: bytes) -> str:
    """A file's ETag: sha256 of a large one, git's hash of a small one."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def folder(home: Path) -> Path:
    """The repository's folder in the cache of a home."""
    return home / "hf" / "hub" / "models--someone--model"


def blob(home: Path, ending: str = "") -> Path:
    """The large file's content in there."""
    return folder(home) / "blobs" / (blob_of(LARGE, FILES[LARGE]) + ending)


class Hub:
    """A repository, its branches, what goes wrong with it and what was asked of it."""

    def __init__(
        self, commits: dict[str, dict[str, bytes]], branches: dict[str, str], repo: str = REPO
    ) -> None:
        self.repo, self.commits, self.branches = repo, commits, branches
        self.faults = Faults()
        self.log: list[Request] = []
        self.lock = Lock()
        self.held: tuple[int, Event] | None = None
        self.address = ""

    def bodies(self, path: str = "/cdn/") -> list[Request]:
        """The requests for contents."""
        return [request for request in self.log if path in request.path]

    @contextmanager
    def holding(self, after: int) -> Iterator[None]:
        """No more than about `after` bytes of a body come before the end of the block."""
        end = Event()
        self.held = (after, end)
        try:
            yield
        finally:
            self.held = None
            end.set()

    def description(self, commit: str, *more: object) -> dict[str, object]:
        """The Hub's answer about a commit, with its files and some `more`."""
        siblings: list[object] = [*more]
        for path, content in self.commits[commit].items():
            blob = blob_of(path, content)
            entry = {"rfilename": path, "size": len(content), "blobId": blob[:40]}
            if is_large(path):
                entry["lfs"] = {"sha256": blob, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.repo, "sha": commit, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, faults, path = self.hub, self.hub.faults, unquote(urlsplit(self.path).path)
        headers = (self.headers[name] for name in ("Host", "Range", "Authorization"))
        with hub.lock:
            hub.log.append(Request(self.command, path, *headers))
        for word, (status, code) in faults.status.items():
            if word in path:
                pause = faults.retry_after
                found = {"X-Error-Code": code, "Retry-After": None if pause is None else str(pause)}
                given = {name: value for name, value in found.items() if value}
                return self.reply(status, b'{"error": "no \\u001b[31mserver text"}', given)
        for end, answer in faults.answer.items():
            if path.endswith(end):
                return self.reply(200, json.dumps(answer).encode())
        parts = path.strip("/").split("/")
        if path.startswith(f"/api/models/{hub.repo}/revision/"):
            name = "/".join(parts[5:])
            commit = hub.branches.get(name, name)
            if commit not in hub.commits:
                return self.reply(404, headers={"X-Error-Code": "RevisionNotFound"})
            return self.reply(200, json.dumps(hub.description(commit)).encode())
        if path.startswith(f"/{hub.repo}/resolve/"):
            commit = hub.branches.get(parts[3], parts[3])
            content = hub.commits.get(commit, {}).get("/".join(parts[4:]))
            if content is None:
                return self.reply(404, headers={"X-Error-Code": "EntryNotFound"})
            return self.resolved("/".join(parts[4:]), commit, content)
        if parts[0] == "cdn":
            for files in hub.commits.values():
                for name, content in files.items():
                    if blob_of(name, content) == parts[1]:
                        return self.body(content, {"ETag": '"of the storage"'})
        return self.reply(404, headers={"X-Error-Code": "RepoNotFound"})

    def resolved(self, path: str, commit: str, content: bytes) -> None:
        blob = blob_of(path, content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob}"'}
        if not is_large(path):
            return self.body(content, headers | self.hub.faults.headers)
        port = urlsplit(self.hub.address).port
        headers |= {
            "Location": f"http://localhost:{port}/cdn/{blob}?signature=secret",
            "X-Linked-ETag": f'"{blob}"',
            "X-Linked-Size": str(len(content)),
        }
        return self.reply(302, headers=headers | self.hub.faults.headers)

    def body(self, content: bytes, headers: dict[str, str]) -> None:
        faults, asked, status = self.hub.faults, self.headers["Range"], 200
        begin, end = 0, len(content)
        if asked and not faults.ignore_range:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first) + faults.wrong_range, int(last or end) + 1, 206
            if begin >= len(content):
                return self.reply(416)
            headers = headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
        sent = bytearray(content[begin:end])
        with self.hub.lock:
            if faults.flips > 0 and sent:
                faults.flips -= 1
                sent[len(sent) // 2] ^= 1
            cut = faults.cuts.pop(0) if faults.cuts and len(content) > 1 << 16 else None
        sent += b"x" * faults.lengthen
        del sent[len(sent) + min(faults.lengthen, 0) :]
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(sent))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        kept = sent[:cut]  # the whole unless the line is cut
        for position in range(0, len(kept), 1 << 16):
            self.wfile.write(kept[position : position + (1 << 16)])
            held = self.hub.held
            if held and position + (1 << 16) >= held[0]:
                held[1].wait()
        self.close_connection = self.close_connection or len(kept) < len(sent)
        return None

    def reply(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 50


@contextmanager
def serving(hub: Hub, tls: ssl.SSLContext | None = None) -> Iterator[Hub]:
    """The hub at an address of its own, until the end of the block."""
    server = Server(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": hub}))
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    hub.address = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PULL = """
import dataclasses, json, sys
from istar.errors import HubError
from istar.models import download
from istar.models.hub import RepoRevision, pull
assert not {"torch", "huggingface_hub"} & set(sys.modules)
task = json.loads(sys.argv[1])
download.SMALLEST_RANGE = task["smallest_range"]

def say(**line):
    print(json.dumps(line), flush=True)

try:
    where = RepoRevision(repo=task["repo"], revision=task["revision"])
    listener = lambda event: say(event=type(event).__name__, **dataclasses.asdict(event))
    say(path=str(pull({where: task["wanted"]}, listener)[where]))
except HubError as error:
    say(error=str(error))
    sys.exit(1)
except KeyboardInterrupt:
    sys.exit(130)
"""


@dataclass
class Pull:
    """A pull in a process of its own."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    noise: str = ""

    def wait_for(self, *events: str, **fields: object) -> dict[str, Any]:
        """Read until one of some events with fields at least as large; fail at the end."""
        assert self.process.stdout
        for text in self.process.stdout:
            line = json.loads(text)
            self.lines.append(line)
            if line.get("event") in events and all(line[key] >= fields[key] for key in fields):
                return line
        raise AssertionError(f"{events} never came: {self.lines} {self.process.stderr.read()}")

    def finish(self) -> Pull:
        """Wait for the end."""
        out, self.noise = self.process.communicate(timeout=60)
        self.lines += [json.loads(line) for line in out.splitlines()]
        return self

    @property
    def path(self) -> Path:
        """The snapshot; fails if the pull did."""
        assert self.process.returncode == 0, (self.lines, self.noise)
        assert self.noise == ""
        return Path(self.lines[-1]["path"])

    @property
    def error(self) -> str:
        """The message of the failure; fails if there was none."""
        assert self.process.returncode == 1, (self.lines, self.noise)
        assert self.noise == ""
        return str(self.lines[-1]["error"])

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == name]


def await_sign(process: subprocess.Popen[str], sign: Callable[[], bool]) -> None:
    """Wait for something that a process does outside of its pipes; fail where it ends first."""
    end = time.monotonic() + 60
    while not sign():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def await_journal(process: subprocess.Popen[str], home: Path, least: int) -> None:
    """Wait until as many bytes of a file, and not all, are kept for whatever happens.

    A journal alone does not say so: a file that has just come whole has one, too.
    """

    def is_kept() -> bool:
        for journal in home.glob("hf/hub/*/blobs/*.part.json"):
            with suppress(FileNotFoundError):  # it may be whole by now
                missing = sum(end - begin for begin, end in json.loads(journal.read_text()))
                if missing and journal.with_suffix("").stat().st_size - missing >= least:
                    return True
        return False

    await_sign(process, is_kept)


PULLS: list[subprocess.Popen[str]] = []
"""What `start_pull` started; the fixture `no_pull_survives` ends it."""


def start_pull(
    home: Path,
    address: str,
    wanted: tuple[str, ...] = WANTED,
    *,
    revision: str = COMMIT,
    smallest_range: int = 1 << 20,
    **environment: str,
) -> Pull:
    """Start to pull in a process that knows nothing of this one's environment."""
    task = {
        "repo": REPO,
        "revision": revision,
        "wanted": wanted,
        "smallest_range": smallest_range,
    }
    settings = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "PYTHONWARNINGS": "error",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, json.dumps(task)],
        env=settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    PULLS.append(process)
    return Pull(process)


def run_pull(home: Path, address: str, *arguments: tuple[str, ...], **options: Any) -> Pull:
    """Pull in a process of its own and wait for its end."""
    return start_pull(home, address, *arguments, **options).finish()
