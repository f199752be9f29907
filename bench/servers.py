"""The servers that sandboxes connect to when egress is measured: `python -m bench.servers <certificate> <address>`.

Each connection has a thread, which answers GET with 1 KiB, or with as many bytes as the path `/big/<bytes>` says.
"""

import contextlib
import socketserver
import ssl
import sys
import threading

_PART = bytes(1 << 20)


class Answers(socketserver.StreamRequestHandler):
    """One connection, kept until the client ends it."""

    rbufsize = 0
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            heard = b""
            while data := self.request.recv(65536):
                heard += data
                while b"\r\n\r\n" in heard:
                    head, _, heard = heard.partition(b"\r\n\r\n")
                    self._answer(head.split(b" ")[1])

    def _answer(self, path: bytes) -> None:
        left = int(path[5:]) if path.startswith(b"/big/") else 1024
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % left
        if left <= 1024:
            self.request.sendall(head + _PART[:left])
            return
        self.request.sendall(head)
        while left:
            self.request.sendall(_PART[:left])
            left -= min(left, len(_PART))


class Server(socketserver.ThreadingTCPServer):
    """Plain HTTP."""

    request_queue_size = 2048
    daemon_threads = True
    allow_reuse_address = True


class Secure(Server):
    """HTTPS: a handshake is made by the thread of its connection."""

    def __init__(self, address: tuple[str, int], pem: str) -> None:
        super().__init__(address, Answers)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


def main() -> None:
    pem, address = sys.argv[1:]
    threading.Thread(target=Server((address, 80), Answers).serve_forever, daemon=True).start()
    secure = Secure((address, 443), pem)
    print("up", flush=True)
    secure.serve_forever()


if __name__ == "__main__":
    main()
