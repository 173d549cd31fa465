"""A judge in a process of its own, for as long as a `with` block lasts."""

import contextlib
import json
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
# Patience for a judge to listen, in seconds.
LISTENS_WITHIN = 10.0
# Below those that Linux gives to connections (`ip_local_port_range`).
PORTS = (15_000, 32_000)


def free_port() -> int:
    """A port that nobody listens on just now. None of those that the system gives to connections, which come and go."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(*PORTS)))
            return probe.getsockname()[1]


class Running:
    """Takes connections when the block begins; `score` is set when it ends."""

    def __init__(self, *command):
        self.command = [sys.executable, *map(str, command)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, cwd=HERE, stdout=subprocess.PIPE, text=True)
        host, port = json.loads(self.process.stdout.readline())["listening"].split(":")
        self.address = (host, int(port))
        # nginx says so before it listens.
        give_up_at = time.monotonic() + LISTENS_WITHIN
        while True:
            try:
                socket.create_connection(self.address).close()
                return self
            except ConnectionRefusedError:
                if time.monotonic() > give_up_at or self.process.poll() is not None:
                    self.process.kill()
                    raise
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.score = json.loads(self.process.communicate(timeout=20)[0].splitlines()[-1])
