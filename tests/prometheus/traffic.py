"""Clients of the host, and the services that it and Prometheus talk to."""
import asyncio
import os
import socket
import struct


def request(path, headers=""):
    return (f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n").encode()


def slow_consumer(port, path):
    """Opens a WebSocket that does not read; returns its socket."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(request(path))
    return client


async def websocket(port, path, headers=""):
    """Opens a WebSocket; returns its reader and writer, or the status of the refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path, headers))
    status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    if status != b"101":
        writer.close()
        return int(status)
    return reader, writer


def text(message):
    """Returns a masked text frame."""
    body, mask = message.encode(), os.urandom(4)
    length = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + struct.pack(">H", len(body))
    return b"\x81" + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))


async def frame(reader):
    """Reads a frame of the host; returns its opcode and payload."""
    first, length = await reader.readexactly(2)
    if length == 126:
        length, = struct.unpack(">H", await reader.readexactly(2))
    elif length == 127:
        length, = struct.unpack(">Q", await reader.readexactly(8))
    return first & 15, await reader.readexactly(length)


async def chat(port, path, message, pause, headers=""):
    """Sends messages for ever, and reads what comes back."""
    reader, writer = await websocket(port, path, headers)
    writing = asyncio.create_task(repeat(writer, message, pause))
    try:
        while True:
            opcode, body = await frame(reader)
            if opcode == 8:
                raise ConnectionError(f"{path}: closed: {body!r}")
    finally:
        writing.cancel()
        writer.close()


async def repeat(writer, message, pause):
    while True:
        writer.write(text(message))
        await writer.drain()
        await asyncio.sleep(pause)


async def come_and_go(port, path, headers, pause):
    """Connects and leaves again for ever; refusals are expected."""
    while True:
        opened = await websocket(port, path, headers)
        if not isinstance(opened, int):
            opened[1].write(b"\x88\x82\x00\x00\x00\x00\x03\xe8")  # 1000
            opened[1].close()
        await asyncio.sleep(pause)


async def authentication_endpoint():
    """Answers with the status in the `Authorization` of a client; returns its port."""
    async def answer(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = head.split("authorization: bearer ")[1][:3] if "authorization" in head else "401"
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()
    return await serve(answer)


async def scrape_proxy(target, seen, accept=None):
    """Forwards scrapes to the port `target` and notes `Accept` and `Content-Type` in `seen`; sends
    `accept` in place of the client's. Returns the port of the proxy."""
    async def forward(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line for line in head.split("\r\n") if line and not (accept and line.lower().startswith("accept:"))]
        lines += [f"Accept: {accept}"] if accept else []
        seen["Accept"] = header(lines, "accept")
        from_host, to_host = await asyncio.open_connection("127.0.0.1", target)
        to_host.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        response = await from_host.read()
        fields = response.split(b"\r\n\r\n")[0].decode().split("\r\n")
        seen["Content-Type"] = header(fields, "content-type")
        writer.write(response)
        writer.close()
        to_host.close()
    return await serve(forward)


def header(lines, name):
    return next((line.split(": ", 1)[1] for line in lines if line.lower().startswith(f"{name}:")), "")


async def serve(handle):
    async def guarded(reader, writer):
        try:
            await handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()  # One side has left.
    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    return server.sockets[0].getsockname()[1]
