"""Python client of plugsocket, for backends: one file, standard library only, Python 3.9 or newer.

A backend posts a single message, or keeps a connection for many:

    import plugsocket
    packet = {"opcode": "feedback", "uuid": uuid, "message": "50 %"}
    plugsocket.post("http://127.0.0.1:8095/php", packet)

    with plugsocket.Backend("127.0.0.1:8095", "/php", reconnect=60) as backend:
        is_there = backend.feedback(uuid, "50 %")

The host accepts both only from addresses in its `allowed_ips`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Callable, Dict, Optional, Type, TypeVar, Union

__all__ = [
    "AnswerTimeoutError",
    "AsyncBackend",
    "Backend",
    "ConnectionFailedError",
    "Packet",
    "PlugsocketError",
    "RefusedError",
    "post",
]
__version__ = "0.1.0"

# A JSON object, with an `opcode`.
Packet = Dict[str, Any]
# Sent as `Authorization: Bearer TOKEN`; a function is called for each connection.
Token = Union[str, Callable[[], str]]
T = TypeVar("T")

_READ_BYTES = 65536
# Maximum number of packets kept for `receive`; the oldest are dropped first.
_KEPT_PACKETS = 1000
# Seconds before the first and the last attempts to reconnect.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
# The host's reason when it stops, which has no `retry_after` with `retry_spread = 0`.
_STOPS = "server shutting down"
# HTTP statuses after which the same request may succeed later.
_PASSING = (408, 429, 503)


class PlugsocketError(Exception):
    """Base class of all exceptions of this client."""


class ConnectionFailedError(PlugsocketError):
    """No connection, or it ended: the host is not there, restarts, or has no place.

    A message that was being sent may have been handled.
    """

    def __init__(self, message: str, retry_after: Optional[int] = None) -> None:
        super().__init__(message)
        #: Seconds after which the host asks to connect again; None: it did not say.
        self.retry_after = retry_after


class AnswerTimeoutError(ConnectionFailedError):
    """No answer in time. The message may have been handled; the connection is closed."""


class RefusedError(PlugsocketError):
    """The host or the application refused: unknown resource, no valid token, a malformed uuid."""


class Backend:
    """Connection to one resource, in the line protocol, over plain TCP, TLS or a Unix socket.

    Methods that send return after the host has acknowledged the message. With `reconnect`, a lost
    connection is opened again, and a message that surely was not handled is sent over the new one;
    reports of a job are sent again in any case, because repeating them changes nothing. Without it,
    create a new object after a ConnectionFailedError.

    Several threads may share a connection; one call is made at a time.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8095",
        resource: str = "/php",
        *,
        ident: str = "",
        timeout: float = 10.0,
        reconnect: float = 0.0,
        heartbeat: int = 0,
        token: Optional[Token] = None,
        context: Optional[ssl.SSLContext] = None,
    ) -> None:
        """Connects and waits for `ready`.

        address: `host:port`, `[v6]:port`, `tcp://…`, `tls://…` or `unix:///path`
        resource: path; `/php` for feedback and broadcast, `/jobs` for progress
        ident: name under which others reach this backend by feedback
        timeout: seconds to connect, and for the answer to each message
        reconnect: seconds for which a call tries to connect again; 0: not at all
        heartbeat: asks the host for a sign of life after so many seconds of silence, 1 to 600, so
            that `receive` notices a dead network; 0: not
        token: sent as `Authorization: Bearer TOKEN`; a function is called for each connection
        context: for `tls://`; the default verifies the host's certificate

        Raises ConnectionFailedError, RefusedError, or ValueError for an invalid argument.
        """
        if re.search(r"[\r\n]", ident) or re.search(r"\s|^$", resource):
            raise ValueError("an ident has no line end, and a resource no space")
        if not 0 <= heartbeat <= 600 or re.search(r"[?&]heartbeat\b", resource):
            raise ValueError("heartbeat is from 0 to 600 seconds, and reserved in a query")
        self._address = address
        self._resource = resource
        self._ident = ident
        self._timeout = timeout
        self._reconnect = reconnect
        self._heartbeat = heartbeat
        self._token = token
        self._context = context
        self._socket: Optional[socket.socket] = None
        self._uuid = ""
        self._lock = threading.RLock()
        # Whether `close` was called.
        self._is_closed = False
        # Whether a message, or the opening, awaits its answer: only then can the host refuse it.
        self._is_asking = False
        # Bytes of the current message that were written, and with how many the host may handle it.
        self._sent = 0
        self._whole = 0
        # Bytes read after the last complete line.
        self._unread = bytearray()
        self._received: deque[Packet] = deque(maxlen=_KEPT_PACKETS)
        # When the last byte came; None before the first heartbeat: an older host sends none.
        self._heard_at: Optional[float] = None
        self._persist(self._connect, may_repeat=True)

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    @property
    def uuid(self) -> str:
        """The uuid of this connection. A new connection has a new one."""
        return self._uuid

    def feedback(self, uuid: str, message: Any) -> bool:
        """Sends any JSON value to the browser with this uuid.

        Returns whether it was delivered; False: this browser is no longer connected, and no later
        message to this uuid will arrive. Raises RefusedError for a malformed uuid.
        """
        return self._feedback({"opcode": "feedback", "uuid": uuid, "message": message})

    def feedback_ident(self, ident: str, message: Any) -> bool:
        """Sends to the connection that announced this ident; returns whether it was delivered."""
        return self._feedback({"opcode": "feedback", "ident": ident, "message": message})

    def broadcast(self, message: Any) -> None:
        """Sends to every browser."""
        verdict = _verdict(self.send({"opcode": "broadcast", "message": message}))
        if verdict != "":
            raise self._not_taken("broadcast", verdict)

    def progress(
        self, job: str, text: str, percent: Optional[float] = None, uuid: Optional[str] = None
    ) -> bool:
        """Reports the progress of a job; for a connection to the application `jobs`.

        percent: 0 to 100; None: unknown
        uuid: browser that watches the job from now on

        Returns whether someone asked to abort: then call `finish(job, "aborted", …)`.
        """
        packet: Packet = {"opcode": "progress", "job": job, "text": text}
        packet.update({} if percent is None else {"percent": percent})
        packet.update({} if uuid is None else {"uuid": uuid})
        verdict = _verdict(self._request(packet, may_repeat=True))
        if verdict not in ("abort", "watched", "unwatched"):
            raise self._not_taken("report", verdict)
        return verdict == "abort"

    def finish(self, job: str, state: str = "done", text: str = "") -> None:
        """Sends the last report of a job: `done`, `failed` or `aborted`."""
        packet = {"opcode": state, "job": job, "text": text}
        verdict = _verdict(self._request(packet, may_repeat=True))
        # `refused` may answer a repeated report that was handled before the connection broke.
        if verdict not in ("watched", "unwatched", "refused"):
            raise self._not_taken("report", verdict)

    def send(self, packet: Packet) -> Packet:
        """Sends any packet; returns the acknowledgement, whose `fyi` is the application's answer.

        Raises ConnectionFailedError, RefusedError if the host closes the connection because of the
        packet, or ValueError and TypeError for a packet that is not JSON.
        """
        return self._request(packet, may_repeat=False)

    def receive(self, seconds: float = 0.0) -> Optional[Packet]:
        """Returns the next packet that was sent to this backend (feedback, echo), in order.

        seconds: how long to wait; 0: do not wait. None: no packet arrived in this time.
        """
        until = time.monotonic() + seconds
        return self._persist(lambda: self._next_received(until), may_repeat=True)

    def close(self) -> None:
        """Closes the connection, as the end of a `with` statement does."""
        self._is_closed = True
        connection = self._socket
        if connection is not None:
            try:
                # Wakes a thread that reads.
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It had ended.
        self._drop()

    def _next_received(self, until: float) -> Optional[Packet]:
        return self._received.popleft() if self._received else self._read(until)

    def _feedback(self, packet: Packet) -> bool:
        # Replaced by the uuid of the connection that it goes over.
        verdict = _verdict(self.send({**packet, "fromUUID": ""}))
        if verdict not in ("delivered", "gone"):
            raise self._not_taken("feedback", verdict)
        return verdict == "delivered"

    def _not_taken(self, what: str, verdict: str) -> RefusedError:
        """Names the reason of the application, which may have sent a packet with the error."""
        last = self._received[-1] if self._received else {}
        error = last.get("error") if last.get("opcode") == "error" else None
        reason = str(error or verdict or "is it a resource of the right application?")
        return RefusedError(f"{self._resource} did not take the {what}: {reason}")

    def _request(self, packet: Packet, may_repeat: bool) -> Packet:
        """Sends a packet and returns its acknowledgement. `may_repeat`: twice is harmless."""
        return self._persist(lambda: self._exchange(packet), may_repeat)

    def _exchange(self, packet: Packet) -> Packet:
        if "fromUUID" in packet:
            packet = {**packet, "fromUUID": self._uuid}
        line = _encode(packet) + b"\n"
        # Without the line feed at its end, the host may take a message as whole.
        self._sent, self._whole = 0, len(line) - 1
        self._notice()
        until = time.monotonic() + self._timeout
        self._write(line, until)
        return self._await("next", until)

    def _persist(self, work: Callable[[], T], may_repeat: bool) -> T:
        """Works over a connection; with `reconnect`, over a new one after a loss, unless the host
        may have handled the message and must not handle it twice."""
        with self._lock:
            return self._persist_locked(work, may_repeat)

    def _persist_locked(self, work: Callable[[], T], may_repeat: bool) -> T:
        until = time.monotonic() + self._reconnect
        pause = _FIRST_PAUSE
        while True:
            is_connected = False
            try:
                if self._reconnect > 0 and not self._is_closed:
                    self._connect()
                is_connected = True
                return work()
            except ConnectionFailedError as lost:
                is_handled = is_connected and self._sent >= self._whole and not may_repeat
                left = until - time.monotonic()
                # The last attempt is at the end of the time, wherever the jitter falls.
                jittered = min(pause * random.uniform(0.5, 1.0), left)
                wait = jittered if lost.retry_after is None else lost.retry_after
                if self._is_closed or is_handled or left <= 0 or wait > left:
                    raise
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _connect(self) -> None:
        """Connects and waits for `ready`. No effect on a connection that is open."""
        if self._socket is not None:
            return
        opening = self._opening()
        self._unread.clear()
        self._heard_at = None
        self._socket = _open_socket(self._address, self._timeout, self._context)
        until = time.monotonic() + self._timeout
        self._write(opening, until)
        self._uuid = str(self._await("ready", until).get("uuid", ""))

    def _opening(self) -> bytes:
        token = self._token() if callable(self._token) else self._token
        path = self._resource
        if self._heartbeat > 0:
            path += f"{'&' if '?' in path else '?'}heartbeat={self._heartbeat}"
        lines = ["backend", f"GET {path} HTTP/1.1"]
        lines += [_authorization(token)] if token else []
        lines += [f"Ident: {self._ident}"] if self._ident else []
        return "\n".join([*lines, "", ""]).encode()

    def _notice(self) -> None:
        """Notices a connection that ended while the backend worked, before a message is written."""
        packet = self._read(time.monotonic())
        while packet is not None:
            self._received.append(packet)
            packet = self._read(time.monotonic())

    def _await(self, opcode: str, until: float) -> Packet:
        """Reads until a packet with this opcode arrives; keeps the others for `receive`."""
        self._is_asking = True
        packet = self._read(until)
        while packet is not None:
            if packet.get("opcode") == opcode:
                self._is_asking = False
                return packet
            self._received.append(packet)
            packet = self._read(until)
        # A late answer would be mistaken for that of the next message.
        self._drop()
        raise AnswerTimeoutError(f"no `{opcode}` from the host within {self._timeout:g} s")

    def _read(self, until: float) -> Optional[Packet]:
        """Returns the next packet but heartbeats, or None if none arrives in time."""
        while True:
            line = self._read_line(until)
            packet = None if line is None else self._packet(line)
            is_heartbeat = packet is not None and packet.get("opcode") == "heartbeat"
            if self._heartbeat == 0 or not is_heartbeat:
                return packet
            self._heard_at = time.monotonic()

    def _read_line(self, until: float) -> Optional[bytes]:
        searched = 0
        while True:
            end = self._unread.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._unread[:end])
                del self._unread[: end + 1]
                return line
            searched = len(self._unread)
            read = self._read_bytes(min(until, self._silent_until()))
            if read is None:
                if time.monotonic() < self._silent_until():
                    return None
                raise self._broken(f"no sign of life from the host within {2 * self._heartbeat} s")
            self._unread += read

    def _read_bytes(self, until: float) -> Optional[bytes]:
        """Returns what arrives first, or None if nothing arrives in time."""
        connection = self._open()
        try:
            # A time-out of 0 does not wait.
            connection.settimeout(max(0.0, until - time.monotonic()))
            read = connection.recv(_READ_BYTES)
        except (socket.timeout, BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise self._broken(f"the connection broke: {error}") from error
        if not read:
            raise self._broken("the host closed the connection")
        if self._heard_at is not None:
            self._heard_at = time.monotonic()
        return read

    def _silent_until(self) -> float:
        """Returns how long the host may be silent."""
        if self._heard_at is None:
            return float("inf")
        return self._heard_at + 2 * self._heartbeat

    def _packet(self, line: bytes) -> Packet:
        packet = _decode(line)
        if packet is None:
            raise self._refused_by_http(line)
        if packet.get("opcode") == "close":
            self._drop()
            retry_after = packet.get("retry_after")
            seconds = retry_after if isinstance(retry_after, int) else None
            raise self._closed(str(packet.get("error", "no reason given")), seconds)
        return packet

    def _closed(self, error: str, retry_after: Optional[int]) -> PlugsocketError:
        """A `close` refuses the message, or the opening, that it answers, unless another try may
        succeed."""
        is_refusal = self._is_asking and retry_after is None and error != _STOPS
        self._is_asking = False
        text = f"the host closes the connection: {error}"
        return RefusedError(text) if is_refusal else ConnectionFailedError(text, retry_after)

    def _refused_by_http(self, status_line: bytes) -> PlugsocketError:
        """Handles an HTTP response to the opening; its last line is the reason."""
        try:
            until = time.monotonic() + 1.0
            while len(self._unread) < _READ_BYTES:
                self._unread += self._read_bytes(until) or b""
                if time.monotonic() >= until:
                    break
        except ConnectionFailedError:
            pass  # The end of the response.
        self._drop()
        answer = self._unread.decode(errors="replace").strip()
        status = status_line.decode(errors="replace").strip()
        reason = answer.rsplit("\n", 1)[-1].strip()[:500]
        found = re.search(r"^Retry-After: *(\d+)", answer, re.IGNORECASE | re.MULTILINE)
        code = re.match(r"\S+ (\d{3})\b", status)
        return _http_error(
            f"the host answers {status}: {reason}",
            int(code.group(1)) if code else 0,
            int(found.group(1)) if found else None,
        )

    def _write(self, data: bytes, until: float) -> None:
        view = memoryview(data)
        while view:
            try:
                connection = self._open()
                connection.settimeout(max(1e-6, until - time.monotonic()))
                written = connection.send(view[:_READ_BYTES])
            except socket.timeout:
                self._drop()
                raise AnswerTimeoutError(
                    f"the host took no message within {self._timeout:g} s"
                ) from None
            except OSError as error:
                raise self._explained(error) from error
            self._sent += written
            view = view[written:]

    def _explained(self, error: OSError) -> PlugsocketError:
        """After a failed write, reads the `close` packet with the reason, if there is one."""
        self._is_asking = True
        try:
            self._notice()
        except PlugsocketError as reason:
            return reason
        return self._broken(f"the connection broke while sending: {error}")

    def _broken(self, why: str) -> ConnectionFailedError:
        self._is_asking = False
        self._drop()
        return ConnectionFailedError(why)

    def _open(self) -> socket.socket:
        # A connection that was opened while another thread called `close` is not used.
        if self._socket is None or self._is_closed:
            raise ConnectionFailedError("the connection is closed")
        return self._socket

    def _drop(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()


class AsyncBackend:
    """A Backend for asyncio: the same methods as coroutines.

    The calls run one after another in a thread of their own, so a `receive` that waits delays the
    calls after it. A call that is cancelled still ends in its thread.
    """

    def __init__(self, backend: Backend, executor: ThreadPoolExecutor) -> None:
        """Use `AsyncBackend.connect` instead."""
        self._backend = backend
        self._executor = executor

    @classmethod
    async def connect(
        cls,
        address: str = "127.0.0.1:8095",
        resource: str = "/php",
        *,
        ident: str = "",
        timeout: float = 10.0,
        reconnect: float = 0.0,
        heartbeat: int = 0,
        token: Optional[Token] = None,
        context: Optional[ssl.SSLContext] = None,
    ) -> AsyncBackend:
        """Connects and waits for `ready`; takes what `Backend` takes."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plugsocket")
        loop = asyncio.get_running_loop()
        connect = partial(
            Backend,
            address,
            resource,
            ident=ident,
            timeout=timeout,
            reconnect=reconnect,
            heartbeat=heartbeat,
            token=token,
            context=context,
        )
        try:
            backend = await loop.run_in_executor(executor, connect)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(backend, executor)

    async def __aenter__(self) -> AsyncBackend:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    @property
    def uuid(self) -> str:
        """The uuid of this connection. A new connection has a new one."""
        return self._backend.uuid

    async def feedback(self, uuid: str, message: Any) -> bool:
        """See Backend.feedback."""
        return await self._call(lambda: self._backend.feedback(uuid, message))

    async def feedback_ident(self, ident: str, message: Any) -> bool:
        """See Backend.feedback_ident."""
        return await self._call(lambda: self._backend.feedback_ident(ident, message))

    async def broadcast(self, message: Any) -> None:
        """See Backend.broadcast."""
        await self._call(lambda: self._backend.broadcast(message))

    async def progress(
        self, job: str, text: str, percent: Optional[float] = None, uuid: Optional[str] = None
    ) -> bool:
        """See Backend.progress."""
        return await self._call(lambda: self._backend.progress(job, text, percent, uuid))

    async def finish(self, job: str, state: str = "done", text: str = "") -> None:
        """See Backend.finish."""
        await self._call(lambda: self._backend.finish(job, state, text))

    async def send(self, packet: Packet) -> Packet:
        """See Backend.send."""
        return await self._call(lambda: self._backend.send(packet))

    async def receive(self, seconds: float = 0.0) -> Optional[Packet]:
        """See Backend.receive."""
        return await self._call(lambda: self._backend.receive(seconds))

    async def close(self) -> None:
        """Closes the connection; a call that waits ends with a ConnectionFailedError."""
        self._backend.close()
        self._executor.shutdown(wait=False)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def post(
    url: str,
    packet: Packet,
    *,
    timeout: float = 10.0,
    token: Optional[str] = None,
    context: Optional[ssl.SSLContext] = None,
) -> Packet:
    """Sends one packet by HTTP POST; returns the acknowledgement.

    Its `fyi` is `delivered` or `gone` for feedback. Proxies in the environment are not used.

    url: `http://host:port/resource` or `https://…`
    timeout: seconds to connect, and for each read
    """
    body = _encode(packet)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if token is not None:
        headers["Authorization"] = _authorization(token).split(": ", 1)[1]
    parts = urllib.parse.urlsplit(url)
    connection = _http_connection(parts, timeout, context)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, headers)
        response = connection.getresponse()
        answer = response.read().strip()
    except socket.timeout:
        raise AnswerTimeoutError(f"no complete answer from {url} within {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionFailedError(f"no answer from {url}: {error}") from error
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        text = f"{url} answered {response.status}: {answer[:500].decode(errors='replace')}"
        seconds = response.headers.get("Retry-After", "")
        raise _http_error(text, response.status, int(seconds) if seconds.isdecimal() else None)
    # The last line is the acknowledgement; packets from the application precede it.
    return _decode(answer.rsplit(b"\n", 1)[-1]) or {"opcode": "next", "fyi": ""}


def _http_connection(
    parts: urllib.parse.SplitResult, timeout: float, context: Optional[ssl.SSLContext]
) -> http.client.HTTPConnection:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL begins with http:// or https:// and a host")
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    return http.client.HTTPSConnection(
        parts.hostname, parts.port, timeout=timeout, context=context
    )


def _http_error(text: str, status: int, retry_after: Optional[int]) -> PlugsocketError:
    is_passing = status in _PASSING
    return ConnectionFailedError(text, retry_after) if is_passing else RefusedError(text)


def _open_socket(
    address: str, timeout: float, context: Optional[ssl.SSLContext]
) -> socket.socket:
    url = address if "://" in address else f"tcp://{address}"
    parts = urllib.parse.urlsplit(url)
    try:
        if parts.scheme == "unix":
            return _open_unix_socket(parts.path, timeout)
        if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
            raise ValueError(
                f"an address is host:port, tcp://, tls:// or unix:///path, not {address}"
            )
        plain = socket.create_connection((parts.hostname, parts.port), timeout)
        # A message is one write, and awaits its answer.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "tcp":
            return plain
        return _start_tls(plain, parts.hostname, context)
    except OSError as error:
        raise ConnectionFailedError(f"no connection to {url}: {error}") from error


def _start_tls(
    plain: socket.socket, name: str, context: Optional[ssl.SSLContext]
) -> socket.socket:
    try:
        return (context or ssl.create_default_context()).wrap_socket(plain, server_hostname=name)
    except OSError:
        plain.close()
        raise


def _open_unix_socket(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _authorization(token: str) -> str:
    if re.search(r"\s", token):
        raise ValueError("a token has no space and no line end")
    return f"Authorization: Bearer {token}"


def _encode(packet: Packet) -> bytes:
    """Returns one line: JSON escapes line ends."""
    text = json.dumps(packet, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half of a surrogate pair, from a text that was cut within an emoji, is not UTF-8.
    return text.encode("utf-8", "replace")


def _decode(line: bytes) -> Optional[Packet]:
    """Returns a packet, or None if the line is not a JSON object."""
    try:
        packet = json.loads(line)
    except ValueError:
        return None
    return packet if isinstance(packet, dict) else None


def _verdict(acknowledgement: Packet) -> str:
    return str(acknowledgement.get("fyi", ""))
