"""The Python client with `reconnect`, while the host restarts: prints `connected`, waits for a line,
and then sends again to the host, which is another one by then.

    PLUGSOCKET_URL=http://127.0.0.1:8095 python3 tests/clients/python_restart.py
"""

import os
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

from plugsocket import Backend  # noqa: E402

ADDRESS = os.environ.get("PLUGSOCKET_URL", "http://127.0.0.1:8095").rstrip("/")[len("http://") :]

printer = Backend(ADDRESS, ident="python-restart", reconnect=60)
script = Backend(ADDRESS, reconnect=60)
jobs = Backend(ADDRESS, "/jobs", reconnect=60)
job = uuid.uuid4().hex
jobs.progress(job, "before", 10)
before = script.uuid
assert script.feedback_ident("python-restart", "before")
assert printer.receive(10.0)["message"] == "before"
print("connected", flush=True)
sys.stdin.readline()
printer.receive(0.0)
assert script.feedback_ident("python-restart", "after")
packet = printer.receive(10.0)
assert packet["message"] == "after" and packet["fromUUID"] == script.uuid != before, packet
jobs.progress(job, "after", 20)
jobs.finish(job)
for backend in (printer, script, jobs):
    backend.close()
print("all messages were delivered", flush=True)
