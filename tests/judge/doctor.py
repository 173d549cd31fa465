"""Stages faults around a real node, one at a time, and asks `tollgate doctor` what holds it back.

Each case has servers of its own on loopback: a provider that answers as the case wants, a network that takes its time, a
store that refuses, a resolver that is slow. The first finding must be the fault. Prints a table of fault and answer; the last
line is one JSON object. Exit 0 only if every answer is right.

    doctor.py                         # all cases, a few at a time
    doctor.py --quick                 # those that need no server but this script's, about a minute
    doctor.py --only dns nats

Cases that need root (a mount namespace, a tmpfs, another process's threads) are left out without it, and named.
"""

import argparse
import concurrent.futures
import contextlib
import ctypes
import http.client
import http.server
import json
import os
import pathlib
import random
import select
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# Seconds that a case works before it is asked, and the window that it is asked about.
WORKS_FOR = 13.0
WINDOW = 10
# Patience for servers to listen and for a node to answer, in seconds.
LISTENS_WITHIN = 20.0
STARTS_WITHIN = 60.0
# Cases at a time: each needs little CPU, and one that takes a CPU goes alone.
AT_ONCE = 4


def free_port() -> int:
    """A port that nobody listens on just now, none of those that the system gives to connections."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
            return probe.getsockname()[1]


class Provider(socketserver.ThreadingTCPServer):
    """Answers every call with a little JSON after `latency`; an account in `refuses` gets 429."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, latency=0.02, refuses=(), closes=False):
        self.latency, self.refuses, self.closes = latency, refuses, closes
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                time.sleep(provider.latency)
                account = self.headers.get("x-account", "")
                body = b'{"ok":true}'
                self.send_response(429 if account in provider.refuses else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if provider.closes:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.port = self.server_address[1]

    def handle_error(self, *_):
        """A node that ends breaks its calls off."""


class Refusing(socketserver.ThreadingTCPServer):
    """Stands before a store, and answers 503 to everything once it is told to."""

    allow_reuse_address = True
    daemon_threads = True
    refuses = False

    def __init__(self, store: int):
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def carry(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if front.refuses:
                    text = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                    return self.answer(503, [("Content-Type", "application/xml")], text)
                connection = http.client.HTTPConnection("127.0.0.1", store)
                # Its signature is over the host that was asked.
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                left_out = ("content-length", "transfer-encoding", "connection")
                heads = [(name, value) for name, value in answer.getheaders() if name.lower() not in left_out]
                self.answer(answer.status, heads, answer.read())
                connection.close()

            def answer(self, status, heads, body):
                self.send_response(status)
                for name, value in heads:
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = carry

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.port = self.server_address[1]

    def handle_error(self, *_):
        """A node that ends breaks its requests off."""


class Network:
    """Carries connections to a port; each piece arrives `delay` seconds later, in order, both ways."""

    def __init__(self, to: int, delay: float):
        self.to, self.delay = to, delay
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            threading.Thread(target=self.carry, args=(near,), daemon=True).start()

    def carry(self, near):
        try:
            far = socket.create_connection(("127.0.0.1", self.to))
        except OSError:
            near.close()
            return
        for end in near, far:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = {near: far, far: near}
        waiting = []
        while True:
            wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select(list(ends), [], [], wait)
            now = time.monotonic()
            for end in ready:
                try:
                    piece = end.recv(65536)
                except OSError:
                    piece = b""
                waiting.append((now + self.delay, ends[end], piece))
                if not piece:
                    # Nothing more comes from there.
                    time.sleep(self.delay)
                    near.close()
                    far.close()
                    return
            while waiting and waiting[0][0] <= now:
                _, to, piece = waiting.pop(0)
                try:
                    to.sendall(piece)
                except OSError:
                    near.close()
                    far.close()
                    return


class Resolver:
    """A DNS server on port 53 of an address of its own that says 127.0.0.1 for everything, after a while."""

    def __init__(self, address: str, delay: float):
        self.delay = delay
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        threading.Thread(target=self.answer_all, daemon=True).start()

    def answer_all(self):
        while True:
            question, whose = self.socket.recvfrom(2048)
            threading.Timer(self.delay, self.answer, (question, whose)).start()

    def answer(self, question, whose):
        end = question.index(b"\0", 12) + 5
        kind = struct.unpack("!H", question[end - 4 : end - 2])[0]
        is_a = kind == 1
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_a), 0, 0)
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton("127.0.0.1")
        self.socket.sendto(head + question[12:end] + (record if is_a else b""), whose)


class Node:
    """`tollgate run`, or `serve` where there is a nats-server, in a folder of its own."""

    def __init__(self, case, folder: pathlib.Path, config: str, accounts: int, fetches: int, before=(), serve=False):
        self.folder, self.case, self.serve = folder, case, serve
        (folder / "tollgate.toml").write_text(config)
        lines = (
            {"platform": "p", "account": f"a{account}", "api": "report", "id": f"{account}-{fetch}"}
            for fetch in range(fetches)
            for account in range(accounts)
        )
        (folder / "fetches.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.before = list(before)
        self.log = (folder / "node.log").open("wb")
        if serve:
            for command in ("setup",), ("publish", "fetches.jsonl"):
                self.tollgate(*command, check=True)
        command = [case.binary, "--log-format", "json", *(["serve"] if serve else ["run", "--json", "fetches.jsonl"])]
        self.process = subprocess.Popen(
            [*self.before, *map(str, command)],
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            env={**os.environ, **case.environment},
        )

    def tollgate(self, *words, check=False):
        return subprocess.run(
            [str(self.case.binary), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
            env={**os.environ, **self.case.environment},
        )

    def works(self) -> bool:
        """Whether it knows of work."""
        answer = self.tollgate("doctor", "--json", "--window", str(WINDOW))
        return bool(answer.stdout) and json.loads(answer.stdout)["waiting"] > 0

    def threads(self) -> list:
        """The threads of its shards."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        named = ((int(task.name), (task / "comm").read_text()) for task in tasks)
        return sorted(tid for tid, name in named if name.startswith("actix-rt"))

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.log.close()


class Case:
    """A fault, and the kind of the first finding that is right for it."""

    environment = {"AWS_ACCESS_KEY_ID": "minioadmin", "AWS_SECRET_ACCESS_KEY": "minioadmin"}

    def __init__(self, args):
        self.binary = args.binary
        self.args = args
        self.stack = contextlib.ExitStack()

    def config(self, provider, limits="", concurrency=256, store='url = "file:./objects"', host="127.0.0.1", more=""):
        return f"""
[node]
name = "node-a"
data = "./data"
[store]
{store}
[http]
listen = "off"
[collect]
concurrency = {concurrency}
shards = 2
{more}
[platforms.p]
base_url = "http://{host}:{provider}/"
headers = {{ x-account = "{{account}}" }}
[platforms.p.limits]
{limits}
[platforms.p.apis.report]
path = "report/{{id}}"
"""

    def node(self, config, accounts, fetches, **more):
        node = Node(self, pathlib.Path(self.folder), config, accounts, fetches, **more)
        self.stack.callback(node.end)
        return node

    def judge(self, folder) -> dict:
        self.folder = folder
        with self.stack:
            node = self.stage()
            # On a busy machine a start takes its time.
            with contextlib.suppress(TimeoutError):
                wait_for(node.works, STARTS_WITHIN)
            time.sleep(WORKS_FOR)
            answer = node.tollgate("doctor", "--json", "--window", str(WINDOW))
            if not answer.stdout:
                log = (node.folder / "node.log").read_text()[-2000:]
                return {"fault": self.name, "right": False, "trouble": answer.stderr + log}
            told = json.loads(answer.stdout)
            first = told["findings"][0] if told["findings"] else {"kind": "nothing", "what": "", "share": 0.0}
            # The machine may be too busy beside it.
            exits = 1 if any(one["kind"] == "cpu" for one in told["findings"]) else self.exits
            is_right = first["kind"] in self.kinds and answer.returncode == exits
            found = {"fault": self.name, "right": is_right, "answer": first["kind"], "what": first["what"]}
            found |= {"share": round(first["share"], 2), "evidence": first.get("evidence", [])}
            found["others"] = [one["kind"] for one in told["findings"][1:]]
            return found

    exits = 1


class Limited(Case):
    name, kinds, exits = "limit too low", ["limit"], 0

    def stage(self):
        limits = 'gap = { per = ["account"], every = "1s" }'
        return self.node(self.config(Provider().port, limits), 50, 100)


class SlowProvider(Case):
    name, kinds = "provider slow", ["provider"]

    def stage(self):
        return self.node(self.config(Provider(latency=3.0).port, concurrency=16), 50, 100)


class FewCollectors(Case):
    name, kinds = "collectors too few", ["collectors"]

    def stage(self):
        return self.node(self.config(Provider(latency=0.1).port, concurrency=4), 50, 200)


class Storm(Case):
    name, kinds = "one account's 429 storm", ["throttled"]

    def stage(self):
        # The others have little to do.
        return self.node(self.config(Provider(refuses=("a0",)).port), 20, 40)


class InBucket(Case):
    """A case whose objects go into a bucket."""

    needs = "s3s_fs"

    def bucket(self) -> int:
        """The port of a store."""
        root, port = pathlib.Path(self.folder, "s3"), free_port()
        (root / "bucket").mkdir(parents=True)
        keys = ["--access-key", "minioadmin", "--secret-key", "minioadmin"]
        server = subprocess.Popen(
            [self.args.s3s_fs, "--host", "127.0.0.1", "--port", str(port), *keys, root],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.stack.callback(server.kill)
        wait_listening(port)
        return port

    def store(self, port: int) -> str:
        endpoint = f'endpoint = "http://127.0.0.1:{port}"'
        return f'url = "s3://bucket/objects"\n{endpoint}\nregion = "us-east-1"\nallow_http = true'


class AwayStore(InBucket):
    name, kinds = "store answers 503", ["store_away"]

    def stage(self):
        front = Refusing(self.bucket())
        limits = 'gap = { per = ["account"], every = "500ms" }'
        node = self.node(self.config(Provider().port, limits, store=self.store(front.port)), 20, 400)
        wait_for(node.works, STARTS_WITHIN)
        front.refuses = True
        return node


class SlowStore(InBucket):
    name, kinds = "store slow", ["store_slow"]

    def stage(self):
        network = Network(self.bucket(), 0.7)
        store = self.store(network.port)
        return self.node(self.config(Provider().port, concurrency=16, store=store), 100, 200)


class SlowNats(Case):
    name, kinds = "NATS slow", ["nats_slow"]
    needs = "nats_server"

    def stage(self):
        port = free_port()
        server = subprocess.Popen(
            [self.args.nats_server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(pathlib.Path(self.folder, "js"))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.stack.callback(server.kill)
        wait_listening(port)
        network = Network(port, 0.15)
        config = self.config(Provider().port, 'gap = { per = ["account"], every = "50ms" }')
        return self.node(config + f'[nats]\nurl = "nats://127.0.0.1:{network.port}"\n', 30, 200, serve=True)


class Root(Case):
    needs = "root"


class SlowNames(Root):
    name, kinds = "DNS slow", ["dns"]

    def stage(self):
        Resolver("127.0.0.153", 1.0)
        conf = pathlib.Path(self.folder, "resolv.conf")
        conf.write_text("nameserver 127.0.0.153\noptions timeout:20\n")
        # Each call has a connection of its own, so each looks the name up.
        config = self.config(Provider(closes=True).port, concurrency=16, host="provider.test")
        mounted = ["unshare", "-m", "sh", "-c", f'mount --bind {conf} /etc/resolv.conf && exec "$@"', "sh"]
        return self.node(config, 50, 100, before=mounted)


class FullDisk(Root):
    name, kinds = "disk full", ["store_full"]

    def stage(self):
        objects = pathlib.Path(self.folder, "objects")
        objects.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(objects)], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", str(objects)], check=False)
        return self.node(self.config(Provider().port), 50, 200)


# A shard that is at work again for so long at a time, after being kept from it for so long, in seconds. Its accounts may
# call every 100 ms: they wait for their shard longer than for their limit.
KEPT_FOR, WORKS_AGAIN_FOR = 0.4, 0.05
SOON = 'gap = { per = ["account"], every = "100ms" }'


class StoppedShard(Root):
    name, kinds = "one shard stopped (ptrace)", ["shard_blocked"]
    failed = None

    def stage(self):
        node = self.node(self.config(Provider().port, SOON), 20, 1000)
        wait_for(node.threads)
        stopping = threading.Thread(target=self.stop_again_and_again, args=(node, node.threads()[0]), daemon=True)
        stopping.start()
        return node

    def judge(self, folder):
        found = super().judge(folder)
        if self.failed:
            found |= {"right": False, "trouble": f"the fault was not staged: {self.failed}"}
            found.pop("answer", None)
        return found

    def stop_again_and_again(self, node, tid):
        """Stops one thread for most of the time."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        seize, interrupt, go_on, all_threads = 0x4206, 0x4207, 7, 0x40000000

        def ask(what):
            ends = libc.ptrace(what, tid, None, None) != 0 and node.process.poll() is None
            if ends:
                self.failed = f"ptrace {what:#x}: {os.strerror(ctypes.get_errno())}"
            return not ends

        if not ask(seize):
            return
        while node.process.poll() is None:
            if not ask(interrupt):
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(tid, all_threads)
            time.sleep(KEPT_FOR)
            if not ask(go_on):
                return
            time.sleep(WORKS_AGAIN_FOR)


class BurntShard(Root):
    name, kinds = "one shard's CPU burnt by another process", ["shard_blocked", "cpu"]
    alone = True

    def stage(self):
        node = self.node(self.config(Provider().port, SOON), 20, 1000)
        wait_for(node.threads)
        cpu = str(max(os.sched_getaffinity(0)))
        tid = str(node.threads()[0])
        subprocess.run(["taskset", "-pc", cpu, tid], check=True, stdout=subprocess.DEVNULL)
        burn = f"import time\nwhile True:\n end=time.monotonic()+{KEPT_FOR}\n while time.monotonic()<end: pass\n time.sleep({WORKS_AGAIN_FOR})"
        burner = subprocess.Popen(["chrt", "-f", "10", "taskset", "-c", cpu, sys.executable, "-c", burn])
        self.stack.callback(burner.kill)
        time.sleep(1.0)
        if burner.poll() is not None:
            raise RuntimeError(f"the fault was not staged: chrt ended with {burner.returncode}")
        return node


CASES = {
    "limit": Limited,
    "provider": SlowProvider,
    "collectors": FewCollectors,
    "storm": Storm,
    "store-503": AwayStore,
    "store-slow": SlowStore,
    "nats": SlowNats,
    "dns": SlowNames,
    "disk": FullDisk,
    "stopped": StoppedShard,
    "burnt": BurntShard,
}
QUICK = ["limit", "provider", "collectors", "storm", "store-503"]


def wait_listening(port: int):
    give_up_at = time.monotonic() + LISTENS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def wait_for(look, within=LISTENS_WITHIN):
    give_up_at = time.monotonic() + within
    while not look():
        if time.monotonic() > give_up_at:
            raise TimeoutError(look)
        time.sleep(0.05)


def is_possible(case, args) -> bool:
    needs = getattr(case, "needs", None)
    if needs == "root":
        return os.geteuid() == 0
    return needs is None or pathlib.Path(getattr(args, needs)).exists()


def judge(name: str, args) -> dict:
    with tempfile.TemporaryDirectory(prefix=f"doctor-{name}-", dir=args.folder) as folder:
        try:
            return CASES[name](args).judge(folder)
        except Exception as error:  # noqa: BLE001: told in the table, and the others go on
            return {"fault": CASES[name].name, "right": False, "trouble": repr(error)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/tollgate")
    parser.add_argument("--nats-server", default=ROOT / "target/judge/bin/nats-server")
    parser.add_argument("--s3s-fs", default=ROOT / "target/tools/bin/s3s-fs")
    parser.add_argument("--folder", default=None, help="where folders of cases are made; on tmpfs it is quicker")
    parser.add_argument("--only", nargs="+", choices=CASES, default=None)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.binary = args.binary.resolve()
    names = args.only or (QUICK if args.quick else list(CASES))
    left_out = [name for name in names if not is_possible(CASES[name], args)]
    names = [name for name in names if name not in left_out]
    together = [name for name in names if not getattr(CASES[name], "alone", False)]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        told = list(pool.map(lambda name: judge(name, args), together))
    told += [judge(name, args) for name in names if name not in together]
    for one in told:
        answer = f"{one['answer']} ({one['share']:.0%}): {one['what']}" if "answer" in one else one["trouble"]
        print(f"{'ok   ' if one['right'] else 'WRONG'} {one['fault']:<42} -> {answer}")
    for name in left_out:
        print(f"left out: {name}, for want of {CASES[name].needs}")
    all_right = all(one["right"] for one in told)
    print(json.dumps({"right": all_right, "cases": told, "left_out": left_out}))
    return 0 if all_right and told else 1


if __name__ == "__main__":
    sys.exit(main())
