"""The Python package `websockets` against a running host.

    PLUGSOCKET_URL=http://127.0.0.1:8095 python3 tests/clients/python_websockets.py

Covers dialog, binary messages, chunks, broadcast and close codes. The host maps the bundled
applications like the shipped plugins.toml. Exit code 77: the package is not installed.
"""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed
except ImportError as error:
    print(f"the Python package websockets is missing: {error}")
    sys.exit(77)

HTTP = os.environ.get("PLUGSOCKET_URL", "http://127.0.0.1:8095").rstrip("/")
WS = HTTP.replace("http", "ws", 1)
NEXT = {"opcode": "next", "fyi": ""}


async def packet(socket):
    return json.loads(await socket.recv())


async def ready(socket):
    first = await packet(socket)
    assert first["opcode"] == "ready" and first["uuid"], first
    return first["uuid"]


async def send(socket, message):
    await socket.send(message if isinstance(message, str) else json.dumps(message))


async def until_close(socket):
    """Returns the remaining packets, the close code and the close reason."""
    packets = []
    try:
        while True:
            packets.append(await packet(socket))
    except ConnectionClosed as closed:
        return packets, closed.rcvd.code, closed.rcvd.reason


async def an_echo_precedes_its_next():
    async with connect(f"{WS}/web") as socket:
        await ready(socket)
        for message in ["", "äöü 😀", "x" * 100_000, {"any": ["JSON", None]}]:
            sent = {"opcode": "echo", "message": message}
            await send(socket, sent)
            assert await packet(socket) == sent
            assert await packet(socket) == NEXT


async def fragments_are_joined():
    async with connect(f"{WS}/web") as socket:
        await ready(socket)
        await socket.send(iter(['{"opcode":"echo",', '"message":', '"whole"}']))
        assert await packet(socket) == {"opcode": "echo", "message": "whole"}
        assert await packet(socket) == NEXT


async def feedback_reaches_its_target_only_and_returns_the_verdict():
    async with connect(f"{WS}/web") as browser, connect(f"{WS}/web") as other:
        async with connect(f"{WS}/php", additional_headers={"Client-Type": "php"}) as script:
            uuid, _, _ = await ready(browser), await ready(other), await ready(script)
            sent = {"opcode": "feedback", "uuid": uuid, "message": "50 %", "extra": 1}
            await send(script, sent)
            assert await packet(script) == {"opcode": "next", "fyi": "delivered"}
            assert await packet(browser) == sent
            await browser.close()
            await send(script, sent)
            assert await packet(script) == {"opcode": "next", "fyi": "gone"}
            await send(other, {"opcode": "echo", "message": "no other packet"})
            assert (await packet(other))["message"] == "no other packet"


async def a_broadcast_reaches_all_others_unchanged():
    sockets = [await connect(f"{WS}{path}") for path in ["/web", "/web", "/"]]
    for socket in sockets:
        await ready(socket)
    text = '{ "opcode":"broadcast",  "message":"to all", "z":1, "a":2 }'
    await send(sockets[0], text)
    assert await packet(sockets[0]) == NEXT
    for socket in sockets[1:]:
        assert await socket.recv() == text
    for socket in sockets:
        await socket.close()


async def chunks_are_joined_and_each_is_acknowledged():
    async with connect(f"{WS}/web") as socket:
        await ready(socket)
        sent = {"opcode": "echo", "message": "chunk " * 10_000}
        text = json.dumps(sent)
        chunks = [text[at : at + 8192] for at in range(0, len(text), 8192)]
        for message in ["bufferON", *chunks]:
            await send(socket, message)
            assert await packet(socket) == NEXT
        await send(socket, "bufferOFF")
        assert await packet(socket) == sent
        assert await packet(socket) == NEXT


async def too_many_chunks_are_refused():
    async with connect(f"{WS}/web") as socket:
        await ready(socket)
        for message in ["bufferON"] + ["x"] * 101:
            await send(socket, message)
        packets, code, _ = await until_close(socket)
        assert packets[-1]["opcode"] == "close" and "chunk" in packets[-1]["error"], packets[-1]
        assert code == 1009, code


async def binary_messages_are_echoed_byte_for_byte():
    async with connect(f"{WS}/echo", max_size=None) as socket:
        for size in [0, 1, 125, 126, 65_535, 65_536, 4_000_000]:
            sent = os.urandom(size)
            await socket.send(sent)
            assert await socket.recv() == sent, size
        await socket.send([b"\x00", b"\xff", b"\xfe"])
        assert await socket.recv() == b"\x00\xff\xfe"
        await socket.send("text stays text")
        assert await socket.recv() == "text stays text"


async def pipelined_messages_are_answered_in_order():
    async with connect(f"{WS}/web") as socket:
        await ready(socket)
        for number in range(2_000):
            await send(socket, {"opcode": "echo", "message": number})
        for number in range(2_000):
            assert (await packet(socket))["message"] == number
            assert await packet(socket) == NEXT


async def a_ping_is_answered():
    async with connect(f"{WS}/echo") as socket:
        await asyncio.wait_for(await socket.ping(b"are you there"), 5)


async def each_close_has_its_code_and_reason():
    for path, message, code, has_error in [
        ("/web", {"opcode": "quit"}, 1000, False),
        ("/web", "no JSON", 1007, True),
        ("/nowhere", None, 1008, True),
    ]:
        async with connect(f"{WS}{path}") as socket:
            if message is not None:
                await ready(socket)
                await send(socket, message)
            packets, closed_with, _ = await until_close(socket)
            assert closed_with == code, (path, message, closed_with)
            errors = [p for p in packets if p["opcode"] == "close" and p["error"]]
            assert bool(errors) == has_error, (path, message, packets)
    # Not `async with`, whose exit fails inside the package after such a close.
    socket = await connect(f"{WS}/echo")
    await socket.send(bytes(16 * 1024 * 1024 + 1))
    _, code, _ = await until_close(socket)
    assert code == 1009, code
    socket = await connect(f"{WS}/echo")
    await socket.close(4321, "mine")
    assert (socket.protocol.close_rcvd.code, socket.protocol.close_rcvd.reason) == (4321, "mine")


async def a_request_without_upgrade_gets_an_http_error():
    def get():
        try:
            urllib.request.urlopen(f"{HTTP}/web", timeout=5)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        return 200, ""

    status, reason = await asyncio.to_thread(get)
    assert status == 400 and reason, (status, reason)


TESTS = [
    an_echo_precedes_its_next,
    fragments_are_joined,
    feedback_reaches_its_target_only_and_returns_the_verdict,
    a_broadcast_reaches_all_others_unchanged,
    chunks_are_joined_and_each_is_acknowledged,
    too_many_chunks_are_refused,
    binary_messages_are_echoed_byte_for_byte,
    pipelined_messages_are_answered_in_order,
    a_ping_is_answered,
    each_close_has_its_code_and_reason,
    a_request_without_upgrade_gets_an_http_error,
]


async def main():
    for test in TESTS:
        try:
            await asyncio.wait_for(test(), 30)
        except BaseException:
            print(f"FAILED {test.__name__}", flush=True)
            raise
        print(f"ok {test.__name__}", flush=True)


asyncio.run(main())
