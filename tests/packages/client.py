"""WebSocket clients of the package test. Needs the package `websockets`.

    client.py stay URL     connects to a resource with dialog and prints "ready"; when the
                           connection has ended, prints how, as one JSON object
    client.py echo URL     sends a message, and fails if it does not come back
    client.py probe URL    connects again and again until standard input ends, then prints the
                           number of attempts, as one JSON object
"""

import asyncio
import json
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException


async def stay(url):
    last = {}
    async with connect(url) as client:
        try:
            async for text in client:
                last = json.loads(text)
                if last["opcode"] == "ready":
                    print("ready", flush=True)
        except ConnectionClosed:
            pass
        result = {"code": client.close_code, "packet": last["opcode"]}
        print(json.dumps({**result, "retry_after": last.get("retry_after")}), flush=True)


async def echo(url):
    async with connect(url) as client:
        await client.send("hello")
        assert await client.recv() == "hello"


async def probe(url):
    # A handshake that the old host has not completed when it is stopped is unfinished.
    result = {"connected": 0, "refused": 0, "unfinished": 0, "longest": 0.0}

    async def attempt():
        since = time.monotonic()
        try:
            async with connect(url, open_timeout=60):
                result["connected"] += 1
        except ConnectionRefusedError:
            result["refused"] += 1
        except (OSError, WebSocketException) as error:
            result["unfinished"] += 1
            result["error"] = repr(error)
        result["longest"] = max(result["longest"], round(time.monotonic() - since, 2))

    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    attempts = []
    while not ended.done():
        attempts.append(asyncio.create_task(attempt()))
        await asyncio.sleep(0.05)
    await asyncio.gather(*attempts)
    print(json.dumps(result), flush=True)


asyncio.run({"stay": stay, "echo": echo, "probe": probe}[sys.argv[1]](sys.argv[2]))
