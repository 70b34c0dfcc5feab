"""Mock host for the tests of the Python client: plain TCP, TLS, Unix sockets and HTTP POST.

Answers a message `{"opcode":"script","writes":[…]}` with these texts, one write each; `"then":
"close"` then ends the connection.
"""

from __future__ import annotations

import json
import queue
import socket
import ssl
import threading
from typing import Any, Optional, Protocol

Packet = dict[str, Any]

READY = {"opcode": "ready", "uuid": "U"}
# What the host answers to the opening of these resources, before it closes the connection.
REFUSALS = {
    "/nowhere": '{"opcode":"close","error":"no application serves /nowhere"}\n',
    "/later": '{"opcode":"close","error":"come later","retry_after":9}\n',
    "/busy": "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nRetry-After: 3\r\n"
    "Connection: close\r\n\r\nfull",
    "/forbidden": "HTTP/1.1 403 Forbidden\r\nContent-Length: 27\r\nConnection: close\r\n\r\n"
    "this address is not allowed",
}
VERDICTS = {"here": "delivered", "printer": "delivered", "malformed": "malformed uuid"}


class Stream(Protocol):
    """What `makefile` returns, as far as it is used."""

    def readline(self) -> bytes: ...
    def read(self, size: int, /) -> bytes: ...
    def write(self, data: bytes, /) -> int: ...
    def flush(self) -> None: ...


class MockHost:
    """Listens until `stop`. Keeps what arrives in queues, on which tests wait."""

    def __init__(self, path: Optional[str] = None, tls: Optional[ssl.SSLContext] = None) -> None:
        family = socket.AF_INET if path is None else socket.AF_UNIX
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0) if path is None else path)
        self._listener.listen()
        self._tls = tls
        self._is_stopped = threading.Event()
        name = self._listener.getsockname()
        self.address = f"unix://{path}" if path else f"{name[0]}:{name[1]}"
        #: Every packet that arrived.
        self.packets: queue.Queue[Packet] = queue.Queue()
        #: One entry for each connection that has ended.
        self.ended: queue.Queue[None] = queue.Queue()
        self._lost: set[str] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._is_stopped.set()
        # `close` alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rwb") as stream:
                self._talk(stream)
        except OSError:
            pass  # The client has closed the connection, or refuses the certificate.
        self.ended.put(None)

    def _talk(self, stream: Stream) -> None:
        first = stream.readline().decode().strip()
        if first.startswith("POST "):
            return _answer_post(stream, first.split(" ")[1])
        opening = [first]
        while line := stream.readline().decode().strip():
            opening.append(line)
        path = opening[1].split(" ")[1]
        if path in REFUSALS:
            _write(stream, REFUSALS[path])
        elif path == "/silent":
            self._is_stopped.wait()
        elif path == "/full":
            # Reads nothing, so that the socket buffers fill up.
            _send(stream, READY)
            self._is_stopped.wait()
        else:
            self._dialog(stream, opening, path)

    def _dialog(self, stream: Stream, opening: list[str], path: str) -> None:
        _send(stream, READY)
        if "heartbeat=" in path:
            _send(stream, {"opcode": "heartbeat"})
        while line := stream.readline():
            packet = json.loads(line)
            self.packets.put(packet)
            if packet["opcode"] == "opening":
                _send(stream, {"opcode": "opening", "lines": opening})
            if not self._reply(stream, packet, path):
                return

    def _reply(self, stream: Stream, packet: Packet, path: str) -> bool:
        """Answers one packet; returns whether the connection stays open."""
        opcode = packet["opcode"]
        if opcode == "script":
            for text in packet["writes"]:
                _write(stream, text)
            return packet.get("then") != "close"
        if opcode == "echo":
            _send(stream, packet)
        if str(packet.get("text", "")).startswith("lost") and packet["text"] not in self._lost:
            self._lost.add(packet["text"])
            return False
        if packet.get("text") == "refused":
            _send(stream, {"opcode": "error", "error": "the job has ended"})
        _send(stream, {"opcode": "next", "fyi": _verdict(packet, path)})
        return True


def _verdict(packet: Packet, path: str) -> str:
    opcode = packet["opcode"]
    if opcode == "feedback" and not path.startswith("/other"):
        return VERDICTS.get(packet.get("uuid") or packet.get("ident", ""), "gone")
    if opcode in ("progress", "done", "failed", "aborted") and path == "/jobs":
        text = packet["text"]
        if text == "refused":
            return "refused"
        return "abort" if opcode == "progress" and text.startswith("abort") else "watched"
    return "refused" if opcode == "broadcast" and path == "/jobs" else ""


def _send(stream: Stream, packet: Packet) -> None:
    _write(stream, json.dumps(packet) + "\n")


def _write(stream: Stream, text: str) -> None:
    stream.write(text.encode())
    stream.flush()


def _answer_post(stream: Stream, path: str) -> None:
    headers = {}
    while line := stream.readline().decode().strip():
        name, value = line.split(":", 1)
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers["content-length"])).decode()
    echo = json.dumps({"opcode": "next", "fyi": headers.get("authorization", "")})
    answers = {
        "/php": ("200 OK", body + '\n{"opcode":"next","fyi":"delivered"}'),
        "/headers": ("200 OK", echo),
        "/busy": ("503 Service Unavailable\r\nRetry-After: 3", "full"),
    }
    status, answer = answers.get(path, ("404 Not Found", f"no application serves {path}"))
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
    _write(stream, head + answer)
