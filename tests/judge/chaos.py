"""A cluster of `tollgate serve` on a cluster of nats-server, disturbed every few seconds, and judged on arrival.

What is done to it: kill -9 of a node, SIGSTOP of one for 20 s, kill -9 of a nats-server, a node cut off from NATS while it
reaches the provider, a node's wall clock stepped by 60 s (libfaketime; its monotonic clock goes on), a node drained, a
node added. One fetch kills its node each time that it is called. Half of the fetches have several pages.

Exit 0 only if at the end every confirmed fetch is done (the killer is dead, its neighbours are done), every object has the
bytes that the judge answered, the judge refused nothing, few calls were made again, and no node ended by itself or would
not end when told. The last line is one JSON object with all figures.

    chaos.py --accounts 60 --fetches 10 --limit "2 per 1 s" --seconds 45            # about a minute and a half
    chaos.py --accounts 2000 --fetches 30 --limit "2 per 20 s" --limit "6 per 90 s" --seconds 1800
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import nats

from backlog import AWAY, Backlog, Outcome, fetch_subject, message_id
from bodies import judge_body, page_body
from run_judged import Limit, judge_command
from run_served import LOOK_EVERY, add_servers, run_in_folder
from running import HERE, Running, free_port
from servers import DRAINED_WITHIN, Failure, Node, Server, nats_cluster, nats_server_path
from verify import NAMED_MAX, plain

FAKETIME = pathlib.Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
# Of each node, before it is disturbed again: a node that never gets to work shows nothing.
REST = 6.0
STOPPED_FOR = 20.0
# Whoever takes a partition looks for what its last owner left behind.
SWEPT_WITHIN = 120.0
CUT_FOR = 15.0
CLOCK_STEP = 60
NEIGHBOURS = 5
# Of a fetch in flight when its node died for the fourth time, nothing more is tried.
KILLS_MAX = 4
KILLED_CODE = "TG0209"
# Calls made again for each disturbance, on average: what one node has in flight, and a burst now and then.
AGAIN_MAX = 20
# Publishes without an answer yet; patience for one, which is then sent again under the same message id.
PENDING_MAX = 500
CONFIRMED_WITHIN = 5.0


class Relay(Server):
    """The way of one node to all nats-servers."""

    def __init__(self, name: str, folder: pathlib.Path, to: list[int]):
        self.ports = [free_port() for _ in to]
        command = [sys.executable, HERE / "relay.py"]
        for port, far in zip(self.ports, to):
            command += ["--port", port, "--to", far]
        super().__init__(f"{name}-relay", folder, command, self.ports[0])

    def urls(self) -> str:
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)


class Member:
    """A node with its own way to NATS and its own wall clock."""

    def __init__(self, chaos: "Chaos", number: int):
        name = f"node-{number}"
        self.relay = Relay(name, chaos.folder, [server.port for server in chaos.nats_servers])
        self.time_file = chaos.folder / f"{name}.time"
        self.time_file.write_text("+0\n")
        self.is_free = True
        self.gone = False
        environment = {"TG_NODE": name}
        if chaos.args.clock:
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.time_file),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_CACHE_DURATION": "1",
            }
        settings = f"[nats]\nurl = {json.dumps(self.relay.urls())}\nreplicas = {len(chaos.nats_servers)}\n{chaos.settings}"
        self.node = Node(name, chaos.folder, chaos.args.tollgate, settings, environment, chaos.args.log_level)

    def start(self):
        self.relay.start().wait_listening()
        self.node.start()


class Killer:
    """A provider one of whose calls is the end of the node that made it."""

    def __init__(self):
        self.members = {}
        self.calls = collections.Counter()
        self.kills = []
        self.tasks = set()

    async def serve(self) -> int:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def answer(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                n = re.search(r"[?&]n=(\w+)", head)[1]
                node = re.search(r"x-node: *(\S+)", head, re.IGNORECASE)[1]
                self.calls[n] += 1
                if n == "killer":
                    self.kill(self.members[node])
                    break
                body = judge_body("killer", n, 64)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        writer.close()

    def kill(self, member: Member):
        """The node was alive just now. Whoever has taken it down otherwise starts it again, too."""
        self.kills.append(member.node.name)
        process = member.node.process
        process.kill()
        process.wait()
        if member.is_free:
            task = asyncio.get_running_loop().create_task(self.again(member))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def again(self, member: Member):
        member.is_free = False
        # It may meet its killer again at once.
        while member.node.process.poll() == -signal.SIGKILL:
            await asyncio.sleep(1.0)
            member.node.start()
            await asyncio.sleep(REST)
        member.is_free = True


class Chaos:
    def __init__(self, args, folder: pathlib.Path, servers: list, nats_servers: list, settings: str):
        self.args, self.folder, self.servers = args, folder, servers
        self.nats_servers, self.settings = nats_servers, settings
        self.random = random.Random(args.seed)
        self.members = []
        self.happened = []
        self.wrong = []
        self.nats_is_free = True
        self.tasks = set()
        self.disturbed_s = 0.0
        self.kinds = [self.kill_node, self.kill_nats, self.stop_node, self.cut_node, self.drain_node, self.add_node]
        if args.clock:
            self.kinds.append(self.step_clock)

    def add(self) -> Member:
        member = Member(self, len(self.members))
        self.members.append(member)
        self.servers += [member.relay, member.node]
        return member

    def free(self) -> list[Member]:
        return [member for member in self.members if member.is_free and not member.gone]

    async def run(self, seconds: float, is_over):
        """Each kind in turn, in an order of its own in each round."""
        ends_at = time.monotonic() + seconds
        queue = []
        while time.monotonic() < ends_at and not is_over():
            await asyncio.sleep(self.args.every * self.random.uniform(0.5, 1.5))
            if not queue:
                queue = self.random.sample(self.kinds, len(self.kinds))
            kind = queue.pop()
            if kind == self.kill_nats:
                if not self.nats_is_free:
                    continue
                coroutine = kind(self.random.choice(self.nats_servers))
            elif kind == self.add_node:
                coroutine = kind()
            else:
                # One node is always left alone.
                free = self.free()
                if len(free) < 2:
                    continue
                coroutine = kind(self.random.choice(free))
            task = asyncio.get_running_loop().create_task(coroutine)
            self.tasks.add(task)
            task.add_done_callback(self.ended)
        self.disturbed_s = seconds - max(0.0, ends_at - time.monotonic())
        while self.tasks:
            await asyncio.wait(self.tasks)

    def ended(self, task: asyncio.Task):
        self.tasks.discard(task)
        if task.exception() is not None:
            self.wrong.append(f"a disturbance came to nothing: {task.exception()!r}")

    def look_after(self):
        """What a run may not leave out, and how its nodes have ended."""
        happened = {what for _, what, _ in self.happened}
        # In so long a time each kind had its turn, even if some turns were passed over.
        if self.disturbed_s > 3 * len(self.kinds) * self.args.every:
            self.wrong += [f"not done: {kind.__name__}" for kind in self.kinds if kind.__name__ not in happened]
        for member in self.members:
            if not member.gone:
                self.must_live(member)
                continue
            try:
                code = member.node.process.wait(DRAINED_WITHIN)
            except subprocess.TimeoutExpired:
                code = "SIGTERM in vain"
            if code not in (0, -signal.SIGKILL):
                self.wrong.append(f"{member.node.name} was sent away and ended with {code}")

    def must_live(self, member: Member):
        """A node ends by a signal of ours or of the killer, never by itself."""
        code = member.node.process.poll()
        if code not in (None, -signal.SIGKILL):
            self.wrong.append(f"{member.node.name} ended by itself with {code}")

    def note(self, what: str, whom: str):
        self.happened.append([round(time.monotonic() - self.started, 1), what, whom])
        print(f"{self.happened[-1][0]:7.1f} {what} {whom}", file=sys.stderr, flush=True)

    @contextlib.asynccontextmanager
    async def taken(self, member: Member):
        member.is_free = False
        yield
        await asyncio.sleep(REST)
        self.start_again(member)
        member.is_free = True

    def start_again(self, member: Member):
        """The killer may have met it meanwhile."""
        self.must_live(member)
        if member.node.process.poll() is not None:
            member.node.start()

    async def kill_node(self, member):
        async with self.taken(member):
            self.note("kill_node", member.node.name)
            member.node.process.kill()
            member.node.process.wait()
            await asyncio.sleep(self.random.uniform(0.2, 8))
            self.start_again(member)

    async def stop_node(self, member):
        await self.stop(member, member.node.process, STOPPED_FOR, "stop_node", "go_on")

    async def cut_node(self, member):
        await self.stop(member, member.relay.process, CUT_FOR, "cut_node", "joined")

    async def stop(self, member, process, seconds: float, what: str, over: str):
        """SIGSTOP of a node or of its way to NATS, for so long."""
        async with self.taken(member):
            self.note(what, member.node.name)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            process.send_signal(signal.SIGCONT)
            self.note(over, member.node.name)
            await asyncio.sleep(1)
            self.start_again(member)

    async def step_clock(self, member):
        async with self.taken(member):
            step = self.random.choice([-CLOCK_STEP, CLOCK_STEP])
            self.note("step_clock", f"{member.node.name} {step:+}")
            member.time_file.write_text(f"{step:+}\n")
            await asyncio.sleep(1)
            self.start_again(member)

    async def drain_node(self, member):
        async with self.taken(member):
            self.note("drain_node", member.node.name)
            process = member.node.process
            process.send_signal(signal.SIGTERM)
            try:
                code = await asyncio.wait_for(asyncio.to_thread(process.wait), DRAINED_WITHIN)
                if code not in (0, -signal.SIGKILL):
                    self.wrong.append(f"{member.node.name} was drained and ended with {code}")
            except TimeoutError:
                self.wrong.append(f"{member.node.name} did not end within {DRAINED_WITHIN:.0f} s of SIGTERM")
                process.kill()
                process.wait()
            await asyncio.sleep(self.random.uniform(0, 5))
            member.node.start()

    async def add_node(self):
        """A new one, or one of those added before goes for good: at most `--nodes-max` at once."""
        alive = [member for member in self.members if not member.gone]
        if len(alive) < self.args.nodes_max:
            member = self.add()
            async with self.taken(member):
                self.note("add_node", member.node.name)
                await asyncio.to_thread(member.start)
            return
        free = self.free()
        if len(free) > 1:
            member = free[-1]
            member.is_free, member.gone = False, True
            self.note("remove_node", member.node.name)
            member.node.process.send_signal(signal.SIGTERM)

    async def kill_nats(self, server):
        self.nats_is_free = False
        try:
            leader = await asyncio.to_thread(is_leader, server)
            self.note("kill_nats", f"{server.name}{' (it led)' if leader else ''}")
            server.kill()
            await asyncio.sleep(self.random.uniform(0.5, 6))
            server.start()
            await asyncio.to_thread(server.wait_listening)
            # A server that is catching up must not be the second that is missing.
            await asyncio.sleep(10)
        finally:
            self.nats_is_free = True


def is_leader(server) -> bool:
    """By its log: whoever wrote of its election last."""
    found = re.findall(r"JetStream cluster (new metadata leader|no metadata leader)", server.log.read_text(errors="replace"))
    return bool(found) and found[-1].startswith("new")


def settings(args, judge: int, killer: int, data: pathlib.Path) -> str:
    limits = [f"limit{i} = {limit.for_tollgate('limits')}" for i, limit in enumerate(args.limit)]
    return "\n".join(
        [
            "prefix = \"tollgate\"",
            "[store]",
            f"url = {json.dumps(f'file:{data}')}",
            "[collect]",
            'timeouts = { connect = "1s" }',
            "[platforms.judge]",
            f'base_url = "http://127.0.0.1:{judge}/"',
            'headers = { X-Account = "{account}" }',
            *([f"guard = {json.dumps(args.guard)}"] if args.guard else []),
            "[platforms.judge.limits]",
            *limits,
            "[platforms.judge.apis.report]",
            'path = "report"',
            'query = { n = "{n}" }',
            "[platforms.judge.apis.paged]",
            'path = "paged"',
            f'query = {{ n = "{{n}}", of = "{args.pages}", page = "{{page.number}}" }}',
            'pages = { by = "page", stop = { pages = "pages" } }',
            "[platforms.killer]",
            f'base_url = "http://127.0.0.1:{killer}/"',
            'auth = { header = "X-Node", value = "env:TG_NODE" }',
            'limits = { one = { per = ["account"], max = 5, in = "1s" } }',
            "[platforms.killer.apis.report]",
            'path = "report"',
            'query = { n = "{n}" }',
            "",
        ]
    )


def all_fetches(args) -> list[dict]:
    """Accounts in turn; every second fetch has pages. The killer stands between its neighbours."""
    fetches = []
    for n in range(args.fetches):
        for a in range(args.accounts):
            account, api = f"act_{a:05d}", "paged" if n % 2 else "report"
            fetch = {"id": f"{account}-{n:05d}", "platform": "judge", "account": account, "api": api}
            fetches.append({**fetch, "params": {"n": str(n)}})
    names = [*map(str, range(NEIGHBOURS)), "killer", *map(str, range(NEIGHBOURS, 2 * NEIGHBOURS))]
    for name in names:
        fetch = {"id": f"of-the-killer-{name}", "platform": "killer", "account": "k", "api": "report"}
        fetches.append({**fetch, "params": {"n": name}})
    return fetches


async def publish(backlog: Backlog, fetches: list[dict]) -> dict[int, dict]:
    """The confirmed fetches by sequence. What is not confirmed is sent again under its id until it is."""
    confirmed = {}
    free = asyncio.Semaphore(PENDING_MAX)

    async def one(fetch):
        payload = json.dumps(fetch).encode()
        headers = {"Nats-Msg-Id": message_id(fetch)}
        while True:
            try:
                answer = await backlog.jetstream.publish(
                    fetch_subject(fetch, backlog.prefix), payload, headers=headers, timeout=CONFIRMED_WITHIN
                )
            except (*AWAY, nats.errors.OutboundBufferLimitError):
                await asyncio.sleep(0.2)
                continue
            confirmed[answer.seq] = fetch
            free.release()
            return

    tasks = []
    for fetch in fetches:
        await free.acquire()
        tasks.append(asyncio.get_running_loop().create_task(one(fetch)))
    await asyncio.gather(*tasks)
    return confirmed


class Objects:
    """Every manifest below the store's folder, and the bytes it speaks of."""

    def __init__(self, args, data: pathlib.Path):
        self.args, self.data = args, data
        self.mistakes = collections.defaultdict(list)
        self.count = 0

    def bodies(self, fetch: dict) -> list[bytes]:
        n, length = fetch["params"]["n"], self.args.body_bytes
        if fetch["platform"] == "killer":
            return [judge_body("killer", n, 64)]
        if fetch["api"] == "report":
            return [judge_body(fetch["account"], f"/report?n={n}", length)]
        of = self.args.pages
        requests = [f"/paged?n={n}&of={of}&page={page + 1}" for page in range(of)]
        return [page_body(fetch["account"], request, length, of) for request in requests]

    def check(self, fetches: list[dict]):
        expected = {(f["platform"], f["account"], f["api"], f["id"]): f for f in fetches if f["params"]["n"] != "killer"}
        named = set()
        for path in self.data.rglob("_manifest.json"):
            manifest = json.loads(path.read_text())
            key = tuple(manifest[name] for name in ("platform", "account", "api", "id"))
            fetch = expected.pop(key, None)
            if fetch is None:
                self.mistakes["manifest of another or a second one"].append(key)
                continue
            found = []
            for entry in manifest["objects"]:
                named.add(entry["key"])
                self.count += 1
                found.append(plain(self.data / entry["key"]))
            if found != self.bodies(fetch):
                self.mistakes["other bytes"].append(str(path))
        self.mistakes["no manifest"] += expected
        for path in self.data.rglob("*"):
            key = path.relative_to(self.data).as_posix()
            if path.is_file() and not path.name.startswith("_") and not key.startswith("_manifests/") and key not in named:
                self.mistakes["in no manifest"].append(key)


async def drained(args, total: int, backlog: Backlog, chaos: Chaos):
    """Returns when every fetch has ended."""
    least_left, moved_at = None, time.monotonic()
    while True:
        left = await backlog.messages("FETCH", "LATER")
        ended = await backlog.messages("DONE", "DEAD")
        now = time.monotonic()
        if left is not None and (least_left is None or left < least_left):
            least_left, moved_at = left, now
        if left == 0 and ended is not None and ended >= total:
            return
        if now - moved_at > args.patience:
            raise Failure(f"no fetch left the queue for {args.patience:.0f} s: {ended} of {total} ended, {left} left")
        await asyncio.sleep(LOOK_EVERY * 5)


async def swept(backlog: Backlog):
    """Waits for the notes that dead nodes have left behind; those that stay are counted later."""
    until = time.monotonic() + SWEPT_WITHIN
    while await backlog.messages("PROGRESS") != 0 and time.monotonic() < until:
        await asyncio.sleep(LOOK_EVERY * 5)


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    nats_servers = nats_cluster(folder, nats_server_path(args.nats_server), args.sync, args.nats)
    servers += nats_servers
    for server in nats_servers:
        server.start()
    for server in nats_servers:
        await asyncio.to_thread(server.wait_listening)
    data, calls = folder / "objects", folder / "calls.jsonl"
    data.mkdir()
    fetches = all_fetches(args)
    killer = Killer()
    killer_port = await killer.serve()
    async with contextlib.AsyncExitStack() as stack:
        judge = Running(*judge_command(args, port := free_port(), calls))
        stack.enter_context(judge)
        chaos = Chaos(args, folder, servers, nats_servers, settings(args, port, killer_port, data))
        for _ in range(args.nodes):
            member = chaos.add()
            member.relay.start().wait_listening()
        # The servers of a cluster take a moment to choose a leader.
        for tries in range(60):
            try:
                await asyncio.to_thread(chaos.members[0].node.command_output, "setup")
                break
            except Failure:
                if tries == 59:
                    raise
                await asyncio.sleep(1)
        killer.members = MembersByName(chaos)
        for member in chaos.members:
            member.node.start()
        for member in chaos.members:
            await asyncio.to_thread(member.node.wait_ready)
        backlog = await stack.enter_async_context(Backlog(",".join(s.url for s in nats_servers).split(",")))
        chaos.started = time.monotonic()
        publishing = asyncio.create_task(publish(backlog, fetches))
        over = asyncio.Event()
        disturbing = asyncio.create_task(chaos.run(args.seconds, over.is_set))
        confirmed = await publishing
        published_s = time.monotonic() - chaos.started
        try:
            await drained(args, len(fetches), backlog, chaos)
        finally:
            over.set()
        seconds = time.monotonic() - chaos.started
        await disturbing
        while killer.tasks:
            await asyncio.wait(killer.tasks)
        await swept(backlog)
        await asyncio.to_thread(chaos.look_after)
        exits = {}
        for member in chaos.members:
            if not member.gone:
                exits[member.node.name] = await asyncio.to_thread(member.node.stop, DRAINED_WITHIN)
        done, dead = await backlog.read("DONE"), await backlog.read("DEAD")
        left = await backlog.messages("FETCH", "LATER", "PROGRESS")
    score = judge.score
    outcome = Outcome(done, dead)
    expected = {seq: fetch for seq, fetch in confirmed.items() if fetch["params"]["n"] != "killer"}
    killers = confirmed.keys() - expected.keys()
    mistakes = collections.defaultdict(list)
    for kind, what in outcome.wrong(expected, data).items():
        # At least once: what a node did before it died may be told twice. They are counted below.
        if kind == "done_twice":
            continue
        if kind == "dead":
            what = [letter for letter in what if letter[0] not in killers]
        mistakes[kind] += what
    if not killers <= outcome.dead.keys():
        mistakes["the killer is not dead"].append(killer.kills)
    killed = [outcome.dead[seq][0].get("code") for seq in killers & outcome.dead.keys()]
    if len(killer.kills) > KILLS_MAX or any(code != KILLED_CODE for code in killed):
        mistakes["how the killer ended"].append({"kills": killer.kills, "letters": killed})
    objects = Objects(args, data)
    objects.check(fetches)
    for kind, what in objects.mistakes.items():
        mistakes[f"objects: {kind}"] += what
    mistakes["disturbances"] += chaos.wrong
    if score["refused"]:
        mistakes["refused"].append(score["refused_by"])
    if left != 0:
        mistakes["left in FETCH, LATER or PROGRESS"].append(left)
    if any(code != 0 for code in exits.values()):
        mistakes["exits of drained nodes"].append(exits)
    pages = args.pages
    asked = sum(pages if fetch["api"] == "paged" else 1 for fetch in expected.values() if fetch["platform"] == "judge")
    again = score["calls"] - asked
    if again > AGAIN_MAX * (len(chaos.happened) + len(killer.kills)):
        mistakes["calls made again"].append(again)
    mistakes = {kind: what for kind, what in mistakes.items() if what}
    return {
        "good": not mistakes,
        "mistakes": {kind: {"count": len(what), "named": what[:NAMED_MAX]} for kind, what in mistakes.items()},
        "seed": args.seed,
        "nodes": args.nodes,
        "nats": args.nats,
        "sync": args.sync,
        "limits": [limit.for_limits() for limit in args.limit],
        "guard": args.guard or "default",
        "disturbances": dict(collections.Counter(what for _, what, _ in chaos.happened)),
        "killer": {"kills": len(killer.kills), "letters": killed},
        "accounts": args.accounts,
        "fetches": len(fetches),
        "confirmed": len(confirmed),
        "done": len(outcome.done),
        "done_again": sum(len(events) - 1 for events in outcome.done.values()),
        "dead": len(outcome.dead),
        "objects": objects.count,
        "calls": score["calls"],
        "called_again": again,
        "refused": score["refused"],
        "window_max": score.get("window_max"),
        "share": score["share"],
        "needed": score["needed"],
        "taken": score["taken"],
        "published_s": round(published_s, 1),
        "seconds": round(seconds, 1),
        "members": [member.node.usage.told() for member in chaos.members],
        "nats_servers": [server.usage.told() for server in nats_servers],
    }


class MembersByName:
    """Nodes come while the run goes on."""

    def __init__(self, chaos: Chaos):
        self.chaos = chaos

    def __getitem__(self, name: str) -> Member:
        return next(member for member in self.chaos.members if member.node.name == name)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=60)
    parser.add_argument("--fetches", type=int, default=10, help="per account")
    parser.add_argument("--pages", type=int, default=3, help="of every second fetch")
    parser.add_argument("--limit", type=Limit, action="append", help='"2 per 1 s", the default')
    parser.add_argument("--latency", type=float, default=0.2, help="seconds before an answer's head")
    parser.add_argument("--body-bytes", type=int, default=256, help="length of an answer's body")
    parser.add_argument("--guard", help='such as "100ms" or "never"; the default if not given')
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--nodes-max", type=int, default=5, help="when one is added, at most")
    parser.add_argument("--nats", type=int, default=3, choices=[1, 3], help="servers of NATS, and replicas")
    parser.add_argument("--sync", choices=["default", "always"], default="default", help="nats-server's sync_interval")
    parser.add_argument("--every", type=float, default=4.0, help="seconds from one disturbance to the next, about")
    parser.add_argument("--seconds", type=float, default=45.0, help="how long it is disturbed; then it may end")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the disturbances; printed")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds beyond the longest window in which some fetch must leave the queue")
    parser.add_argument("--clock", action=argparse.BooleanOptionalAction, default=FAKETIME.exists(), help="step clocks, too")
    add_servers(parser)
    args = parser.parse_args()
    args.limit = args.limit or [Limit("2 per 1 s")]
    # Near the end all accounts may wait for the same window.
    args.patience += max(limit.seconds for limit in args.limit)
    args.judge = "limits"
    run_in_folder(args, run, "chaos-")


if __name__ == "__main__":
    main()
