"""Stands in for systemd in a chroot, which cannot run it:

    systemd.py ROOT

Reads plugsocket.service and plugsocket.socket below ROOT and does for them what systemd does: listens,
passes the socket, runs ExecStart as the user of the unit, waits for READY=1, and stops with SIGTERM.
The file system is read-only but for the folders of the service, as with ProtectSystem=strict, and there
are no capabilities. Of the other sandboxing, nothing is applied.

The stand-in for systemctl writes its arguments to ROOT/run/systemd/request, and reads its exit code
from ROOT/run/systemd/answer. The log of the service is ROOT/../service.log.
"""

import os
import resource
import select
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(sys.argv[1])
UNITS = ROOT / "usr/lib/systemd/system"
RUN = ROOT / "run/systemd"

# Arguments: ROOT, the descriptor of the socket, user, group, umask, the folders of the service, and
# ExecStart. LISTEN_PID must be the process that becomes the host, so every step is an exec.
SANDBOX = """set -eu
root="$1" socket="$2" user="$3" group="$4" folders="$6"
umask "$5"
shift 6
mount --rbind "$root" "$root"
for folder in $folders; do mount --bind "$root$folder" "$root$folder"; done
mount -o remount,bind,ro "$root"
if [ "$socket" != - ]; then
    eval "exec 3<&$socket"
    export LISTEN_FDS=1 LISTEN_PID=$$
fi
exec chroot "$root" setpriv --reuid="$user" --regid="$group" --init-groups --no-new-privs \\
    --bounding-set=-all --inh-caps=-all -- "$@"
"""


def read_unit(name):
    """Returns the keys of a unit, of which the last one counts."""
    text = (UNITS / name).read_text()
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


class Manager:
    def __init__(self):
        self.listening = None
        self.host = None
        self.log = open(ROOT.parent / "service.log", "wb")
        path = RUN / "notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(path))
        path.chmod(0o666)

    def start_socket(self):
        if self.listening:
            return
        unit = read_unit("plugsocket.socket")
        address, port = unit["ListenStream"].split(":")
        backlog = int(unit["Backlog"])
        self.listening = socket.create_server((address, int(port)), backlog=backlog)

    def stop_socket(self):
        if self.listening:
            self.listening.close()
            self.listening = None

    def own(self, folder, mode, unit):
        """Creates a folder of the service, as StateDirectory= and RuntimeDirectory= do."""
        path = ROOT / folder.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        owner = f"{unit['User']}:{unit['Group']}"
        subprocess.run(["chroot", ROOT, "chown", owner, folder], check=True)
        return folder

    def start_host(self):
        if self.is_active():
            return
        unit = read_unit("plugsocket.service")
        folders = [
            self.own("/var/lib/" + unit["StateDirectory"], int(unit["StateDirectoryMode"], 8), unit),
            self.own("/run/" + unit["RuntimeDirectory"], 0o755, unit),
        ]
        # Notifications of the host before.
        while select.select([self.notify], [], [], 0)[0]:
            self.notify.recv(4096)
        passed = [self.listening.fileno()] if self.listening else []
        # In a container, even root cannot exceed the limit.
        limit = min(int(unit["LimitNOFILE"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        command = ["unshare", "--mount", "sh", "-c", SANDBOX, "sh", str(ROOT)]
        command += [str(passed[0]) if passed else "-", unit["User"], unit["Group"], unit["UMask"]]
        command += [" ".join(folders), *shlex.split(unit["ExecStart"])]
        self.host = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=passed,
            env={"NOTIFY_SOCKET": "/run/systemd/notify", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )
        while True:
            if not select.select([self.notify], [], [], 60)[0] or not self.is_active():
                raise RuntimeError("the service is not ready")
            if b"READY=1" in self.notify.recv(4096):
                return

    def stop_host(self):
        if not self.is_active():
            return
        limit = int(read_unit("plugsocket.service")["TimeoutStopSec"])
        self.host.send_signal(signal.SIGTERM)
        if self.host.wait(limit) != 0:
            raise RuntimeError(f"the service ended with {self.host.returncode}")

    def is_active(self):
        return self.host is not None and self.host.poll() is None

    def do(self, words):
        """Does what systemctl was asked; returns its exit code."""
        verb, *units = [word for word in words if not word.startswith("-")]
        if verb == "is-active":
            active = self.is_active() if units == ["plugsocket.service"] else self.listening
            return 0 if active else 3
        for unit in units:
            is_socket = unit.endswith(".socket")
            if verb in ("stop", "restart"):
                (self.stop_socket if is_socket else self.stop_host)()
            if verb in ("start", "restart"):
                (self.start_socket if is_socket else self.start_host)()
        return 0


def main():
    for name in ("request", "answer"):
        os.mkfifo(RUN / name)
    manager = Manager()
    while True:
        words = (RUN / "request").read_text().split()
        print("systemctl", *words, flush=True)
        try:
            code = manager.do(words)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print("failed:", error, flush=True)
            code = 1
        (RUN / "answer").write_text(f"{code}\n")
        if words == ["exit"]:
            return


if __name__ == "__main__":
    main()
