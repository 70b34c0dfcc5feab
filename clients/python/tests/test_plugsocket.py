"""Tests of the Python client, against mock_host.py.

    python3 -m unittest discover clients/python/tests
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable, Optional

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

import plugsocket  # noqa: E402
from mock_host import MockHost, Packet  # noqa: E402
from plugsocket import (  # noqa: E402
    AnswerTimeoutError,
    AsyncBackend,
    Backend,
    ConnectionFailedError,
    PlugsocketError,
    RefusedError,
)

NEXT = '{"opcode":"next","fyi":"late"}\n'
STOPS = "server shutting down"


def close(error: str, seconds: Optional[int] = None) -> str:
    packet: Packet = {"opcode": "close", "error": error}
    return json.dumps(packet if seconds is None else {**packet, "retry_after": seconds}) + "\n"


def script(*writes: str, then: str = "close") -> Packet:
    return {"opcode": "script", "writes": list(writes), "then": then}


class WithHost(unittest.TestCase):
    def setUp(self) -> None:
        self.host = self.start()

    def start(self, *arguments: Any, **options: Any) -> MockHost:
        host = MockHost(*arguments, **options)
        self.addCleanup(host.stop)
        return host

    def connect(self, resource: str = "/php", **options: Any) -> Backend:
        backend = Backend(self.host.address, resource, **options)
        self.addCleanup(backend.close)
        return backend

    def arrived(self) -> Packet:
        """Returns the next packet that arrived at the host; waits for it."""
        return self.host.packets.get(timeout=10)

    def fails(self, kind: type, part: str, call: Callable[[], object]) -> Any:
        """Expects exactly this exception, and returns it."""
        try:
            call()
        except Exception as error:
            self.assertIs(type(error), kind)
            self.assertIn(part, str(error))
            return error
        self.fail(f"expected {kind.__name__}, nothing was raised")

    def retry_after(self, call: Callable[[], object]) -> Any:
        return self.fails(ConnectionFailedError, "", call).retry_after


class Sending(WithHost):
    def opening(self, backend: Backend) -> list[str]:
        backend.send({"opcode": "opening"})
        packet = backend.receive()
        assert packet is not None
        return list(packet["lines"])

    def test_the_opening_contains_resource_and_ident(self) -> None:
        backend = self.connect(ident="printer")
        self.assertEqual(backend.uuid, "U")
        self.assertEqual(self.opening(backend), ["backend", "GET /php HTTP/1.1", "Ident: printer"])
        with Backend(f"tcp://{self.host.address}") as backend:
            self.assertEqual(self.opening(backend), ["backend", "GET /php HTTP/1.1"])

    def test_feedback_returns_whether_it_was_delivered(self) -> None:
        backend = self.connect()
        self.assertTrue(backend.feedback("here", {"percent": 50}))
        expected = {"opcode": "feedback", "uuid": "here", "message": {"percent": 50}, "fromUUID": "U"}
        self.assertEqual(self.arrived(), expected)
        self.assertFalse(backend.feedback("away", "50 %"))
        self.assertTrue(backend.feedback_ident("printer", "50 %"))
        self.assertFalse(backend.feedback_ident("nobody", "50 %"))

    def test_broadcast_reaches_the_host(self) -> None:
        self.connect().broadcast("to all")
        self.assertEqual(self.arrived(), {"opcode": "broadcast", "message": "to all"})

    def test_what_the_application_does_not_take_is_refused_with_the_reason(self) -> None:
        backend = self.connect()
        self.fails(RefusedError, "malformed uuid", lambda: backend.feedback("malformed", "x"))
        other = self.connect("/other")
        self.fails(RefusedError, "right application?", lambda: other.feedback("here", "x"))
        self.fails(RefusedError, "right application?", lambda: other.progress("J", "x"))
        self.fails(RefusedError, "right application?", lambda: other.finish("J"))
        jobs = self.connect("/jobs")
        self.fails(RefusedError, "refused", lambda: jobs.broadcast("x"))
        self.fails(RefusedError, "the job has ended", lambda: jobs.progress("J", "refused"))

    def test_progress_returns_whether_to_abort(self) -> None:
        backend = self.connect("/jobs")
        self.assertFalse(backend.progress("J", "half way", 50.0))
        self.assertEqual(
            self.arrived(), {"opcode": "progress", "job": "J", "text": "half way", "percent": 50.0}
        )
        self.assertFalse(backend.progress("J", "nobody knows how far"))
        self.assertTrue(backend.progress("J", "abort now", 60, "here"))
        backend.finish("J", "aborted")

    def test_line_ends_and_special_characters_arrive_unchanged(self) -> None:
        backend = self.connect()
        for message in ['two\nlines, \r\n Grüße, 😀, / and "quotes"', "0123456789" * 300000]:
            backend.send({"opcode": "echo", "message": message})
            packet = backend.receive()
            assert packet is not None
            self.assertTrue(packet["message"] == message)
            self.assertIsNone(backend.receive())

    def test_half_of_an_emoji_is_replaced(self) -> None:
        self.connect().broadcast("cut: \ud83d")
        self.assertEqual(self.arrived()["message"], "cut: ?")

    def test_several_packets_in_one_read_and_one_packet_in_several_reads(self) -> None:
        backend = self.connect()
        packets = '{"opcode":"a"}\n{"opcode":"b"}\n'
        acknowledgement = backend.send(script(packets, *NEXT, '{"opcode":"c"}', "\n", then=""))
        self.assertEqual(acknowledgement, {"opcode": "next", "fyi": "late"})
        for opcode in "abc":
            self.assertEqual(backend.receive(5.0), {"opcode": opcode})
        self.assertIsNone(backend.receive())

    def test_a_token_is_sent_and_a_function_is_called_for_each_connection(self) -> None:
        tokens = iter(["t1", "t2"])
        backend = self.connect(token=lambda: next(tokens), ident="printer", reconnect=10)
        backend.send(script(NEXT + close("token expired")))
        self.host.ended.get(timeout=10)
        lines = ["backend", "GET /php HTTP/1.1", "Authorization: Bearer t2", "Ident: printer"]
        self.assertEqual(self.opening(backend), lines)

    def test_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.host = self.start(f"{folder}/host.sock")
            self.assertTrue(self.connect().feedback("here", "x"))

    def test_threads_share_a_connection(self) -> None:
        backend = self.connect()
        verdicts: list[bool] = []

        def work(uuid: str) -> None:
            for _ in range(50):
                verdicts.append(backend.feedback(uuid, "x") == (uuid == "here"))

        threads = [threading.Thread(target=work, args=(uuid,)) for uuid in ("here", "away")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(verdicts, [True] * 100)

    def test_post(self) -> None:
        url = f"http://{self.host.address}"
        acknowledgement = plugsocket.post(f"{url}/php", {"opcode": "feedback", "uuid": "here"})
        self.assertEqual(acknowledgement, {"opcode": "next", "fyi": "delivered"})
        self.assertEqual(plugsocket.post(f"{url}/headers", {}, token="abc")["fyi"], "Bearer abc")
        refused = "404: no application serves /nowhere"
        self.fails(RefusedError, refused, lambda: plugsocket.post(f"{url}/nowhere", {}))
        self.assertEqual(self.retry_after(lambda: plugsocket.post(f"{url}/busy", {})), 3)


class Losing(WithHost):
    def test_a_refusal_has_the_reason(self) -> None:
        self.fails(RefusedError, "no application serves /nowhere", lambda: self.connect("/nowhere"))
        forbidden = "403 Forbidden: this address is not allowed"
        self.fails(RefusedError, forbidden, lambda: self.connect("/forbidden"))

    def test_a_close_that_answers_a_message_refuses_it(self) -> None:
        backend = self.connect()
        packet = script(close("a message must be an object"))
        self.fails(RefusedError, "a message must be an object", lambda: backend.send(packet))
        closed = "the connection is closed"
        self.fails(ConnectionFailedError, closed, lambda: backend.broadcast("x"))

    def test_a_host_that_stops_or_asks_to_come_again_does_not_refuse(self) -> None:
        for error, seconds in [(STOPS, None), (STOPS, 7), ("not available now", 5)]:
            backend = self.connect()
            packet = script(close(error, seconds))
            self.assertEqual(self.retry_after(lambda: backend.send(packet)), seconds)
            self.between_messages(close(error, seconds), seconds)
        self.between_messages(close("no message for too long"), None)
        self.assertEqual(self.retry_after(lambda: self.connect("/later")), 9)
        self.assertEqual(self.retry_after(lambda: self.connect("/busy")), 3)

    def between_messages(self, line: str, seconds: Optional[int]) -> None:
        """A `close` that answers nothing refuses nothing."""
        backend = self.connect()
        backend.send(script(NEXT + line))
        self.assertEqual(self.retry_after(lambda: backend.broadcast("x")), seconds)
        listening = self.connect()
        listening.send(script(NEXT, line))
        self.assertEqual(self.retry_after(lambda: listening.receive(10.0)), seconds)

    def test_a_connection_that_ends_without_a_close_packet(self) -> None:
        ended = "the host closed the connection"
        backend = self.connect()
        self.fails(ConnectionFailedError, ended, lambda: backend.send(script('{"half')))

    def test_with_reconnect_a_lost_connection_is_opened_again(self) -> None:
        backend = self.connect("/jobs", reconnect=10)
        for line in [close(STOPS, 0), close(STOPS), ""]:
            backend.send(script(NEXT + line))
            self.host.ended.get(timeout=10)
            self.assertTrue(backend.feedback("here", "after the restart"))
        # The host may have handled it, so it is not sent again; the next message is.
        lost = script(close(STOPS, 0))
        self.assertEqual(self.retry_after(lambda: backend.send(lost)), 0)
        self.assertTrue(backend.feedback("here", "x"))
        packets = [self.arrived() for _ in range(8)]
        self.assertEqual(packets.count(lost), 1)
        # A report of a job is.
        self.assertFalse(backend.progress("J", "lost once", 50.0))
        backend.finish("J", "done", "lost twice")
        self.assertEqual([self.arrived()["text"] for _ in range(4)], ["lost once"] * 2 + ["lost twice"] * 2)
        backend.close()
        closed = "the connection is closed"
        self.fails(ConnectionFailedError, closed, lambda: backend.broadcast("x"))

    def test_reconnect_ends_at_its_time_and_a_refusal_ends_it_at_once(self) -> None:
        began = time.monotonic()
        self.fails(
            ConnectionFailedError, "no connection to", lambda: Backend("127.0.0.1:1", reconnect=0.5)
        )
        self.assertGreaterEqual(time.monotonic() - began, 0.2)
        self.fails(
            ConnectionFailedError, "come later", lambda: self.connect("/later", reconnect=5)
        )
        self.fails(RefusedError, "no application", lambda: self.connect("/nowhere", reconnect=60))
        self.assertLess(time.monotonic() - began, 30.0)

    def test_with_heartbeat_a_silent_host_is_given_up(self) -> None:
        backend = self.connect("/php?room=7", heartbeat=1)
        backend.send({"opcode": "opening"})
        packet = backend.receive()
        assert packet is not None
        self.assertEqual(packet["lines"][1], "GET /php?room=7&heartbeat=1 HTTP/1.1")
        silent = "no sign of life from the host within 2 s"
        self.fails(ConnectionFailedError, silent, lambda: backend.receive(60.0))

    def test_ready_and_next_time_out(self) -> None:
        self.fails(AnswerTimeoutError, "no `ready`", lambda: self.connect("/silent", timeout=0.1))
        backend = self.connect(timeout=0.3)
        self.fails(AnswerTimeoutError, "no `next`", lambda: backend.send(script(then="")))
        closed = "the connection is closed"
        self.fails(ConnectionFailedError, closed, lambda: backend.broadcast("x"))

    def test_a_write_to_a_host_that_does_not_read_times_out(self) -> None:
        backend = self.connect("/full", timeout=0.3)
        message = "x" * 20_000_000
        self.fails(AnswerTimeoutError, "took no message", lambda: backend.broadcast(message))

    def test_no_connection(self) -> None:
        refused = "no connection to tcp://127.0.0.1:1"
        self.fails(ConnectionFailedError, refused, lambda: Backend("127.0.0.1:1"))
        url = "http://127.0.0.1:1/php"
        self.fails(ConnectionFailedError, "no answer from", lambda: plugsocket.post(url, {}))

    def test_close_ends_a_receive_that_waits(self) -> None:
        backend = self.connect(reconnect=60)
        failed: list[PlugsocketError] = []

        def wait() -> None:
            try:
                backend.receive(60.0)
            except PlugsocketError as error:
                failed.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        backend.close()
        thread.join(30)
        self.assertEqual([type(error) for error in failed], [ConnectionFailedError])

    def test_invalid_arguments_raise_immediately(self) -> None:
        url = f"http://{self.host.address}/php"
        for part, call in [
            ("an ident has no line end", lambda: self.connect(ident="a\nb")),
            ("a resource no space", lambda: self.connect("/a b")),
            ("heartbeat is from 0", lambda: self.connect(heartbeat=601)),
            ("heartbeat is from 0", lambda: self.connect("/php?heartbeat=1")),
            ("a token has no space", lambda: self.connect(token="a\nb")),
            ("a token has no space", lambda: plugsocket.post(url, {}, token="a b")),
            ("an address is", lambda: Backend("http://127.0.0.1:1")),
            ("a URL begins", lambda: plugsocket.post("127.0.0.1:1", {})),
        ]:
            self.fails(ValueError, part, call)
        with self.assertRaises(ValueError):
            self.connect("/jobs").progress("J", "x", float("nan"))


class Tls(WithHost):
    def setUp(self) -> None:
        if shutil.which("openssl") is None:
            self.skipTest("the program openssl, which makes a certificate, is missing")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.certificate, key = f"{folder.name}/certificate.pem", f"{folder.name}/key.pem"
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", key, "-out", self.certificate]
        subprocess.run([*make.split(), *names, *files], check=True, capture_output=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate, key)
        self.host = self.start(tls=tls)
        self.address = f"tls://localhost:{self.host.address.split(':')[1]}"

    def test_messages_go_over_tls(self) -> None:
        context = ssl.create_default_context(cafile=self.certificate)
        with Backend(self.address, context=context) as backend:
            message = "0123456789" * 100_000
            backend.send({"opcode": "echo", "message": message})
            packet = backend.receive()
            self.assertEqual(packet, {"opcode": "echo", "message": message})
            self.assertIsNone(backend.receive())
            self.assertTrue(backend.feedback("here", "x"))

    def test_an_unknown_certificate_is_refused(self) -> None:
        self.fails(ConnectionFailedError, "CERTIFICATE_VERIFY", lambda: Backend(self.address))


class Async(WithHost):
    def test_the_same_methods_are_coroutines(self) -> None:
        async def work() -> None:
            async with await AsyncBackend.connect(self.host.address, "/jobs") as backend:
                self.assertEqual(backend.uuid, "U")
                self.assertTrue(await backend.feedback("here", "x"))
                self.assertFalse(await backend.feedback_ident("nobody", "x"))
                self.assertTrue(await backend.progress("J", "abort", 50.0, "here"))
                await backend.finish("J", "aborted")
                await backend.send({"opcode": "echo", "message": 1})
                self.assertEqual(await backend.receive(5.0), {"opcode": "echo", "message": 1})
                with self.assertRaises(RefusedError):
                    await backend.broadcast("x")

        asyncio.run(work())

    def test_a_refusal_reaches_the_caller(self) -> None:
        with self.assertRaises(RefusedError):
            asyncio.run(AsyncBackend.connect(self.host.address, "/nowhere"))

    def test_close_ends_a_call_that_waits(self) -> None:
        async def work() -> None:
            backend = await AsyncBackend.connect(self.host.address, reconnect=60)
            waiting = asyncio.ensure_future(backend.receive(60.0))
            await asyncio.sleep(0)  # Lets the call start.
            await backend.close()
            with self.assertRaises(ConnectionFailedError):
                await waiting

        asyncio.run(work())


class Example(WithHost):
    def run_example(self, job: str) -> subprocess.CompletedProcess[str]:
        path = FOLDER.parent / "examples" / "progress.py"
        command = [sys.executable, str(path), job, self.host.address]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def test_the_example_reports_its_parts(self) -> None:
        self.assertEqual(self.run_example("J").returncode, 0)
        texts = [self.arrived()["text"] for _ in range(21)]
        self.assertEqual(texts[0], "part 1 of 20")
        self.assertEqual(texts[20], "all 20 parts are done")


if __name__ == "__main__":
    # On standard output, as the other clients' tests.
    runner = unittest.TextTestRunner(stream=sys.stdout, verbosity=2)
    unittest.main(testRunner=runner)
