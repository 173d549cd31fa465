"""The processes that the judged runs of `tollgate serve` need: nats-server, an S3 server, the nodes themselves.

All listen on 127.0.0.1. Each can be killed and started again on the same port with the same data, and counts what it
used over all its lives.
"""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from running import free_port

# Patience for a server to take connections, in seconds; a nats-server reads back its store first.
LISTENS_WITHIN = 60.0
# Patience for a node to say that it is ready, and to drain after SIGTERM.
READY_WITHIN = 60.0
DRAINED_WITHIN = 60.0
# Time between two looks at what a process uses.
LOOK_EVERY = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
# The last lines of a log that are shown when something failed.
TAIL_LINES = 20


class Usage:
    """Memory and CPU of a server over all its lives, from /proc."""

    def __init__(self):
        self.rss_max = 0
        self.cpu_of = {}
        # (monotonic seconds, bytes), for those who want to see how it grew.
        self.rss_over_time = []

    def look(self, pid: int):
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        # Fields 14 and 15 of proc(5)'s stat, counted from behind the name.
        self.cpu_of[pid] = (int(stat[11]) + int(stat[12])) / TICKS
        kilobytes = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if "Vm" in line}
        # A zombie has no memory any more.
        if "VmRSS" in kilobytes:
            self.rss_max = max(self.rss_max, int(kilobytes["VmHWM"]) * 1024)
            self.rss_over_time.append((time.monotonic(), int(kilobytes["VmRSS"]) * 1024))

    def cpu_seconds(self) -> float:
        return sum(self.cpu_of.values())

    def told(self) -> dict:
        return {"cpu_s": round(self.cpu_seconds(), 2), "rss_max_mb": round(self.rss_max / 1e6, 1)}


class Server:
    """A process that can be killed and started again. What it says goes to a file, all lives one after the other."""

    def __init__(self, name: str, folder: pathlib.Path, command: list, port: int, environment=None):
        self.name = name
        self.log = folder / f"{name}.log"
        self.command = [str(word) for word in command]
        self.port = port
        self.environment = {**os.environ, **(environment or {})}
        self.process = None
        self.usage = Usage()
        # Lives that ended without anybody's wish, as sentences.
        self.troubles = []
        self.is_looking = threading.Event()

    def start(self):
        with self.log.open("ab") as log:
            # A group of its own: ctrl-C comes to the script first, which then ends all in order.
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        if not self.is_looking.is_set():
            self.is_looking.set()
            threading.Thread(target=self._keep_looking, daemon=True).start()
        return self

    def _keep_looking(self):
        while self.is_looking.is_set():
            self.look()
            time.sleep(LOOK_EVERY)

    def look(self):
        if self.process is not None and self.process.poll() is None:
            self.usage.look(self.process.pid)

    def wait_listening(self):
        give_up_at = time.monotonic() + LISTENS_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                self.must_live()
                if time.monotonic() > give_up_at:
                    raise Failure(f"{self.name} did not listen within {LISTENS_WITHIN:.0f} s")
                time.sleep(0.02)

    def must_live(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended by itself, exit {self.process.returncode}")

    def kill(self):
        """`kill -9`."""
        self.must_live()
        self.look()
        self.process.kill()
        self.process.wait()

    def stop(self, within: float = 20.0) -> int | None:
        """SIGTERM, and its exit code; None when it had to be killed."""
        self.look()
        self.is_looking.clear()
        if self.process is None:
            return None
        if self.process.poll() is not None:
            return self.process.returncode
        self.process.send_signal(signal.SIGTERM)
        give_up_at = time.monotonic() + within
        while self.process.poll() is None and time.monotonic() < give_up_at:
            self.look()
            time.sleep(0.05)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            return None
        return self.process.returncode

    def tail(self) -> str:
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- the end of {self.log}", *lines])


class Failure(Exception):
    """Something that the run may not do; the sentence says what."""


def nats_server_path(given: str | None) -> str:
    """As cargo's tests look for it: named, beside this Python, in target/judge, on PATH."""
    root = pathlib.Path(__file__).parent.parent.parent
    beside = [pathlib.Path(sys.executable).parent, root / "target/judge/bin"]
    named = given or os.environ.get("TOLLGATE_NATS_SERVER")
    if named:
        return named
    for folder in beside:
        if os.access(folder / "nats-server", os.X_OK):
            return str(folder / "nats-server")
    found = shutil.which("nats-server")
    if not found:
        raise SystemExit("nats-server is missing: bin/test --judges installs it, or name it by --nats-server")
    return found


class NatsServer(Server):
    """One nats-server with JetStream. `sync` is how often it syncs its files: "default" (2 minutes) or "always"."""

    def __init__(self, folder: pathlib.Path, path: str, sync: str = "default", name: str = "nats-server", routes=None):
        """`routes` are the ports of a cluster's routes, this server's own first."""
        port = free_port()
        config = folder / f"{name}.conf"
        interval = "" if sync == "default" else f"sync_interval: {sync}"
        cluster = ""
        if routes:
            others = ", ".join(f"nats-route://127.0.0.1:{route}" for route in routes[1:])
            # A client that is told of other servers would go to them past a relay.
            cluster = f'cluster {{ name: judged, listen: "127.0.0.1:{routes[0]}", routes: [{others}], no_advertise: true }}'
        config.write_text(
            f"""
            listen: "127.0.0.1:{port}"
            server_name: {name}
            jetstream {{ store_dir: {json.dumps(str(folder / f"{name}.jetstream"))}, {interval} }}
            {cluster}
            """
        )
        super().__init__(name, folder, [path, "-c", config], port)
        self.url = f"nats://127.0.0.1:{port}"


def nats_cluster(folder: pathlib.Path, path: str, sync: str = "default", count: int = 3) -> list[NatsServer]:
    """Servers of one cluster, not started."""
    routes = [free_port() for _ in range(count)]
    turned = [routes[i:] + routes[:i] for i in range(count)]
    return [NatsServer(folder, path, sync, f"nats-{i}", turned[i]) for i in range(count)]


class S3Server(Server):
    """s3s-fs: a bucket is a folder below its root, an object a plain file in there."""

    KEYS = {"AWS_ACCESS_KEY_ID": "judged", "AWS_SECRET_ACCESS_KEY": "judged-secret"}
    BUCKET = "objects"

    def __init__(self, folder: pathlib.Path, path: str, niceness: int = 0, concurrency: int = 256):
        self.concurrency = concurrency
        root = folder / "s3"
        (root / self.BUCKET).mkdir(parents=True)
        self.objects = root / self.BUCKET
        port = free_port()
        command = ["nice", "-n", niceness, path, "--host", "127.0.0.1", "--port", port]
        command += ["--access-key", self.KEYS["AWS_ACCESS_KEY_ID"]]
        command += ["--secret-key", self.KEYS["AWS_SECRET_ACCESS_KEY"], root]
        super().__init__("s3s-fs", folder, command, port)

    def store(self) -> str:
        return "\n".join(
            [
                "[store]",
                f'url = "s3://{self.BUCKET}"',
                f'endpoint = "http://127.0.0.1:{self.port}"',
                'region = "us-east-1"',
                "allow_http = true",
                f"concurrency = {self.concurrency}",
                "",
            ]
        )


class Node(Server):
    """`tollgate serve` with its own config, data folder and HTTP port."""

    def __init__(self, name: str, folder: pathlib.Path, tollgate, config: str, environment=None, log_level="info"):
        port = free_port()
        self.settings = folder / f"{name}.toml"
        node = f"[node]\nname = {json.dumps(name)}\ndata = {json.dumps(str(folder / name))}\n"
        self.settings.write_text(f'{node}[http]\nlisten = "127.0.0.1:{port}"\n{config}')
        self.tollgate = [str(tollgate), "--config", str(self.settings), "--log-level", log_level]
        super().__init__(name, folder, [*self.tollgate, "serve"], port, environment)

    def command_output(self, *words) -> str:
        """What another command prints with the same config; its failure is the run's."""
        command = [*self.tollgate, *map(str, words)]
        with self.log.open("ab") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, env=self.environment, text=True)
        if done.returncode != 0:
            raise Failure(f"tollgate {' '.join(map(str, words))}: exit {done.returncode}; {done.stdout[-500:]}")
        return done.stdout

    def get(self, path: str) -> tuple[int | None, str]:
        """Status and body; no status where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except OSError:
            return None, ""
        finally:
            connection.close()

    def wait_ready(self):
        give_up_at = time.monotonic() + READY_WITHIN
        while (status := self.get("/readyz")[0]) != 200:
            self.must_live()
            if time.monotonic() > give_up_at:
                raise Failure(f"{self.name}: /readyz answered {status} for {READY_WITHIN:.0f} s")
            time.sleep(0.02)
        return self
