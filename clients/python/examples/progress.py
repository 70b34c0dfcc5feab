"""Example: reports the progress of a job to the browser that started it.

    python3 examples/progress.py JOB [ADDRESS]

The browser received JOB in answer to {"opcode":"start"} on /jobs, and passed it on with the request
that started this script.
"""

import sys
import time
from pathlib import Path

# For the folder of the repository; not needed after `pip install`.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from plugsocket import Backend, PlugsocketError


def work(jobs: Backend, job: str, parts: int = 20) -> int:
    """Works, and returns the exit code."""
    for part in range(1, parts + 1):
        time.sleep(0.3)  # Stands for the work.
        if jobs.progress(job, f"part {part} of {parts}", 100 * part / parts):
            jobs.finish(job, "aborted", f"stopped after part {part}")
            return 1
    jobs.finish(job, "done", f"all {parts} parts are done")
    return 0


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: python3 progress.py JOB [ADDRESS]", file=sys.stderr)
        return 2
    job, address = [*sys.argv[1:], "127.0.0.1:8095"][:2]
    try:
        with Backend(address, "/jobs", reconnect=60) as jobs:
            return work(jobs, job)
    except PlugsocketError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
