"""The Python client (clients/python/plugsocket.py) against a running host.

    PLUGSOCKET_URL=http://127.0.0.1:8095 python3 tests/clients/python_client.py
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

from plugsocket import AsyncBackend, Backend, RefusedError, post  # noqa: E402

URL = os.environ.get("PLUGSOCKET_URL", "http://127.0.0.1:8095").rstrip("/")
ADDRESS = URL[len("http://") :]
# The uuid of a browser that is not connected.
NOBODY = "00000000-0000-4000-8000-000000000000." + 64 * "0"


def refused(part, call):
    try:
        call()
    except RefusedError as error:
        assert part in str(error), error
    else:
        raise AssertionError(f"not refused: {part}")


def token():
    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = json.dumps({"sub": "ann", "exp": int(time.time()) + 60}).encode()
    signed = encode(b'{"alg":"HS256"}') + b"." + encode(claims)
    secret = b"0123456789abcdef0123456789abcdef"
    signature = hmac.new(secret, signed, hashlib.sha256).digest()
    return (signed + b"." + encode(signature)).decode()


def one_message_by_post():
    packet = {"opcode": "feedback", "uuid": NOBODY, "message": "x"}
    assert post(f"{URL}/php", packet) == {"opcode": "next", "fyi": "gone"}
    refused("/nowhere", lambda: post(f"{URL}/nowhere", {"opcode": "echo"}))


def feedback_by_ident_is_received_in_order():
    printer = Backend(ADDRESS, ident="python-client-printer")
    with Backend(ADDRESS) as script:
        assert not script.feedback(NOBODY, "x")
        for page in range(20):
            assert script.feedback_ident("python-client-printer", f"page {page} 😀")
        for page in range(20):
            assert printer.receive(5.0)["message"] == f"page {page} 😀"
        printer.close()
        # The host notices the close shortly afterwards.
        deadline = time.monotonic() + 5.0
        while script.feedback_ident("python-client-printer", "too late"):
            assert time.monotonic() < deadline
        script.broadcast("to all browsers")


def a_mistake_is_refused_with_its_reason():
    with Backend(ADDRESS) as script:
        refused("malformed uuid", lambda: script.feedback("no uuid", "x"))
        refused("unknown opcode", lambda: script.progress("job", "x"))
        assert not script.feedback(NOBODY, "the connection stays open")
    refused("/nowhere", lambda: Backend(ADDRESS, "/nowhere"))


def a_token_lets_a_script_in():
    with Backend(ADDRESS, "/members", token=token()) as script:
        assert not script.feedback(NOBODY, "x")
    with Backend(ADDRESS, "/members", token=token, ident="ann") as script:
        assert not script.feedback(NOBODY, "x")
    packet = {"opcode": "feedback", "uuid": NOBODY}
    assert post(f"{URL}/members", packet, token=token())["fyi"] == "gone"
    refused("no token", lambda: Backend(ADDRESS, "/members", reconnect=60))
    refused("cannot be read", lambda: Backend(ADDRESS, "/members", token="a.b.c"))
    refused("401", lambda: post(f"{URL}/members", {}))


def the_progress_of_a_job_is_accepted():
    with Backend(ADDRESS, "/jobs") as jobs:
        job = uuid.uuid4().hex
        assert not jobs.progress(job, "half of it", 50)
        jobs.finish(job, "done", "all of it")
        refused("/jobs did not take the report", lambda: jobs.progress(job, "after the last one"))


def a_heartbeat_is_no_packet():
    with Backend(ADDRESS, heartbeat=1) as script:
        assert script.receive(1.5) is None
        assert not script.feedback(NOBODY, "x")


def asyncio_works():
    async def work():
        async with await AsyncBackend.connect(ADDRESS, ident="python-client-async") as script:
            assert await script.feedback_ident("python-client-async", "to itself")
            assert (await script.receive(5.0))["message"] == "to itself"

    asyncio.run(work())


TESTS = [
    one_message_by_post,
    feedback_by_ident_is_received_in_order,
    a_mistake_is_refused_with_its_reason,
    a_token_lets_a_script_in,
    the_progress_of_a_job_is_accepted,
    a_heartbeat_is_no_packet,
    asyncio_works,
]

for test in TESTS:
    try:
        test()
    except BaseException:
        print(f"FAILED {test.__name__}", flush=True)
        raise
    print(f"ok {test.__name__}", flush=True)
