"""A git server on loopback: `git http-backend` behind the standard library's HTTP server, as obliging or as hostile as
a test wants it."""

import contextlib
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

LEAVE = (ip_network("127.0.0.0/8"),)


@dataclass
class Site:
    """What a server serves, what it demands, and what it was asked. `instead` answers a request in its own way.

    `certificate` is a file with one and its key; with it the server speaks https.
    """

    root: Path
    port: int = 0
    authorization: str | None = None
    instead: Callable[[BaseHTTPRequestHandler], None] | None = None
    certificate: Path | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}/{name}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # a client that goes away is nothing to tell


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers["Authorization"]))
            if site.authorization is not None and self.headers["Authorization"] != site.authorization:
                return refuse(self)
            if site.instead is not None:
                return site.instead(self)
            return _backend(self, site.root)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Answer)
    if site.certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refuse(answer: BaseHTTPRequestHandler, status: int = 401) -> None:
    """Refuse, and say in every way there is what was sent for authorization."""
    echoed = f"you sent {answer.headers['Authorization']}".encode()
    answer.send_response(status, f"No {answer.headers['Authorization']}")
    answer.send_header("WWW-Authenticate", 'Basic realm="here"')
    answer.send_header("Content-Type", "text/plain")
    answer.send_header("Content-Length", str(len(echoed)))
    answer.end_headers()
    answer.wfile.write(echoed)


def _backend(answer: BaseHTTPRequestHandler, root: Path) -> None:
    path, _, query = answer.path.partition("?")
    body = answer.rfile.read(int(answer.headers["Content-Length"] or 0)) if answer.command == "POST" else b""
    if answer.headers["Transfer-Encoding"] == "chunked":
        body = _unchunked(answer)
    variables = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_PROTOCOL": answer.headers["Git-Protocol"] or "",
        "HTTP_CONTENT_ENCODING": answer.headers["Content-Encoding"] or "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_METHOD": answer.command,
        "CONTENT_TYPE": answer.headers["Content-Type"] or "",
        "CONTENT_LENGTH": str(len(body)),
    }
    done = subprocess.run(["git", "http-backend"], input=body, env=variables, capture_output=True, check=False)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
    answer.send_response(int(headers.pop("Status", "200").split()[0]))
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
        answer.send_header(name, value)
    answer.end_headers()
    with contextlib.suppress(ConnectionError):
        answer.wfile.write(content)


def _unchunked(answer: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while size := int(answer.rfile.readline(), 16):
        body += answer.rfile.read(size)
        answer.rfile.readline()
    answer.rfile.readline()
    return body


def git(directory: Path, *arguments: str, given: bytes = b"") -> str:
    """What a git command in a directory prints, told nothing by the machine's configuration."""
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    variables = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", **who}
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=directory, env=variables, input=given, capture_output=True, check=True)
    return done.stdout.decode().strip()


def repository(root: Path, name: str, files: dict[str, str]) -> Path:
    """A repository of one commit on `main`."""
    made = root / name
    made.mkdir()
    git(made, "init", "--quiet", "--initial-branch=main")
    for path, text in files.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text)
    git(made, "add", "--all", "--force")
    git(made, "commit", "--quiet", "--allow-empty", "--message=first")
    return made
