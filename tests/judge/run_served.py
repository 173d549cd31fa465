"""Runs `tollgate serve` on a real nats-server against a judge, disturbs it if asked, and checks everything.

nats-py publishes the fetches. Exit 0 only if every fetch is done exactly once, every object has the bytes that the
judge answered, and the judge refused nothing. The last line is one JSON object with all figures.

    run_served.py --accounts 500 --calls 20 --limit "2 per 1 s" --limit "10 per 10 s" --share-min 0.97
    run_served.py --accounts 500 --calls 20 --limit "2 per 1 s" --kill-node 5 --kill-nats 5 --sync always
    run_served.py --nodes 2                         # by mistake on the same accounts
    run_served.py --s3s-fs target/tools/bin/s3s-fs  # objects in S3
    run_served.py --stop-nats 60                    # away for a minute
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from backlog import Backlog, Outcome
from metrics import latencies
from run_judged import REQUEST, Limit, body_bytes, judge_command, platform
from running import HERE, Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, S3Server, nats_server_path
from verify import NAMED_MAX, Verification

# Time between two looks at the streams, and after a moment was chosen at random, the most that it is put off so
# that it falls anywhere between two rounds of calls. In seconds.
LOOK_EVERY = 0.1
PUT_OFF_MAX = 0.4
# Patience when the queue is empty and events are still missing.
EVENTS_WITHIN = 5.0
# A node whose nats-server is gone for so long must say so at /readyz, and be ready so soon after its return.
AWAY_IS_SAID_AFTER = 5.0
READY_AGAIN_WITHIN = 30.0


class Disturbances:
    """What is done to the run, each at a share of the fetches done, chosen at random, while work is left."""

    def __init__(self, args, nodes: list, nats_server: NatsServer):
        self.args = args
        self.nodes = nodes
        self.nats_server = nats_server
        self.random = random.Random(args.seed)
        # What comes with the last calls of each account would fall behind the end.
        most_at_once = min(limit.max for limit in args.limit)
        latest = max(0.1, 1 - (most_at_once + 1) / args.calls)
        kinds = [self.kill_node] * args.kill_node + [self.kill_nats] * args.kill_nats
        kinds += [self.stop_nats] * bool(args.stop_nats) + [self.freeze_nats] * bool(args.freeze_nats)
        self.random.shuffle(kinds)
        # One in each of as many equal parts of the work, so that not all come in one heap.
        shares = [latest * self.random.uniform(i, i + 1) / len(kinds) for i in range(len(kinds))]
        self.planned = collections.deque(zip(shares, kinds))
        self.happened = []
        self.wrong = []

    async def next(self, done: int, fetches: int, backlog: Backlog) -> bool:
        """Does what is due; whether anything was."""
        # Between two of them something ends, or the second would find nothing at work.
        before = self.happened[-1]["done"] if self.happened else 0
        if not self.planned or done < self.planned[0][0] * fetches or done <= before:
            return False
        _, kind = self.planned.popleft()
        await asyncio.sleep(self.random.uniform(0, PUT_OFF_MAX))
        if await backlog.messages("FETCH") == 0:
            self.wrong.append(f"{kind.__name__}: no work was left; take more calls per account")
            return True
        print(f"{kind.__name__} with {done} of {fetches} done", file=sys.stderr, flush=True)
        self.happened.append({"what": kind.__name__, "done": done})
        await kind()
        return True

    async def kill_node(self):
        node = self.random.choice(self.nodes)
        node.kill()
        node.start()

    async def kill_nats(self):
        self.nats_server.kill()
        self.nats_server.start()
        await asyncio.to_thread(self.nats_server.wait_listening)

    async def stop_nats(self):
        await asyncio.to_thread(self.nats_server.stop)
        await self._away(self.args.stop_nats, must_say=self.args.stop_nats >= AWAY_IS_SAID_AFTER)
        self.nats_server.start()
        await asyncio.to_thread(self.nats_server.wait_listening)
        await self._back()

    async def freeze_nats(self):
        self.nats_server.process.send_signal(signal.SIGSTOP)
        try:
            # Its connections stay open, so a node without work may take longer to notice.
            await self._away(self.args.freeze_nats, must_say=False)
        finally:
            self.nats_server.process.send_signal(signal.SIGCONT)
        await self._back()

    async def _away(self, seconds: float, must_say: bool):
        await asyncio.sleep(seconds)
        for node in self.nodes:
            node.must_live()
            status, body = await asyncio.to_thread(node.get, "/readyz")
            self.happened[-1].setdefault("readyz_away", []).append(status)
            if must_say and status == 200:
                self.wrong.append(f"{node.name}: /readyz is 200 with NATS away for {seconds} s: {body[:200]}")

    async def _back(self):
        started = time.monotonic()
        for node in self.nodes:
            while (await asyncio.to_thread(node.get, "/readyz"))[0] != 200:
                node.must_live()
                if time.monotonic() - started > READY_AGAIN_WITHIN:
                    self.wrong.append(f"{node.name}: not ready {READY_AGAIN_WITHIN:.0f} s after NATS came back")
                    return
                await asyncio.sleep(0.05)
        self.happened[-1]["ready_after_s"] = round(time.monotonic() - started, 2)


async def drained(args, fetches: int, backlog: Backlog, nodes: list, disturbances: Disturbances):
    """Returns when every fetch has ended, or when it is sure that some will not."""
    # What counts as a move is that less is left: events alone could be the same ones again and again.
    least_left, moved_at, empty_since = None, time.monotonic(), None
    while True:
        done = await backlog.messages("DONE", "DEAD")
        left = await backlog.messages("FETCH", "LATER")
        now = time.monotonic()
        if left is not None and (least_left is None or left < least_left):
            least_left, moved_at = left, now
        if done is not None and await disturbances.next(done, fetches, backlog):
            moved_at = time.monotonic()
            continue
        if left == 0 and done is not None:
            empty_since = empty_since or now
            if done >= fetches or now - empty_since > EVENTS_WITHIN:
                return
        else:
            empty_since = None
        for node in nodes:
            node.must_live()
        if now - moved_at > args.patience:
            raise Failure(f"no fetch left the queue for {args.patience:.0f} s: {done} of {fetches} ended, {left} left")
        await asyncio.sleep(LOOK_EVERY)


def needed_seconds(limits: list[Limit], calls: int) -> float:
    """The least time from the first to the last of so many calls of one account, under all limits."""
    times = []
    for k in range(calls):
        times.append(max([times[k - n.max] + n.seconds for n in limits if k >= n.max], default=0.0))
    return times[-1] if times else 0.0


def shares_by_account(args, log: pathlib.Path, published_ns: dict) -> dict:
    """How much of its allowed rate each account used, from its own first arrival to its own last.

    `with_work` is the same of all together, each from when its first fetch was published.
    """
    times = collections.defaultdict(list)
    for line in log.read_text().splitlines():
        call = json.loads(line)
        times[call["account"]].append(call["at_ns"])
    shares = []
    needed_all = taken_all = 0
    for account, at in times.items():
        taken = (max(at) - min(at)) / 1e9
        needed_all += needed_seconds(args.limit, len(at))
        taken_all += (max(at) - published_ns[account]) / 1e9
        if taken > 0:
            shares.append(needed_seconds(args.limit, len(at)) / taken)
    if not shares:
        return {}
    return {
        "min": round(min(shares), 4),
        "median": round(statistics.median(shares), 4),
        "with_work": round(needed_all / taken_all, 4),
    }


def verified(args, data: pathlib.Path, fetches: pathlib.Path, calls: pathlib.Path) -> Verification:
    """Every object against the bytes that the judge must have answered."""
    verification = Verification(
        argparse.Namespace(
            data=data,
            fetches=fetches,
            request=REQUEST,
            judge=args.judge,
            body_bytes=body_bytes(args),
            calls=calls if args.judge == "limits" else None,
        )
    )
    verification.run()
    return verification


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    fetches_file, calls = folder / "fetches.jsonl", folder / "calls.jsonl"
    with fetches_file.open("w") as file:
        command = ["fetches.py", "--accounts", args.accounts, "--fetches", args.calls, "--in-turn"]
        subprocess.run([sys.executable, *map(str, command)], cwd=HERE, stdout=file, check=True)
    fetches = [json.loads(line) for line in fetches_file.read_text().splitlines()]

    nats_server = NatsServer(folder, nats_server_path(args.nats_server), args.sync)
    servers.append(nats_server)
    nats_server.start().wait_listening()
    data, store, environment = folder / "objects", "", {}
    if args.s3s_fs:
        s3 = S3Server(folder, args.s3s_fs, args.s3_nice, args.s3_concurrency)
        servers.append(s3)
        s3.start().wait_listening()
        data, store, environment = s3.objects, s3.store(), S3Server.KEYS
    else:
        data.mkdir()
        store = f"[store]\nurl = {json.dumps(f'file:{data}')}\n"

    async with contextlib.AsyncExitStack() as stack:
        judge = Running(*judge_command(args, port := free_port(), calls))
        stack.enter_context(judge)
        settings = f"[nats]\nurl = {json.dumps(nats_server.url)}\nprefix = \"tollgate\"\n{store}"
        # A call in flight at a crash is charged only when its connecting and its guard must have ended.
        settings += f'[collect]\ntimeouts = {{ connect = "1s" }}\n{platform(args, port)}'
        nodes = [
            Node(f"node-{i}", folder, args.tollgate, settings, environment, args.log_level)
            for i in range(args.nodes)
        ]
        servers += nodes
        nodes[0].command_output("setup")
        backlog = await stack.enter_async_context(Backlog(nats_server.url))

        async def start_nodes():
            for node in nodes:
                node.start()
            for node in nodes:
                await asyncio.to_thread(node.wait_ready)

        if not args.publish_first:
            await start_nodes()
        started = time.monotonic()
        seqs = await backlog.publish(fetches)
        published = time.monotonic()
        if args.publish_first:
            await start_nodes()
        disturbances = Disturbances(args, nodes, nats_server)
        await drained(args, len(fetches), backlog, nodes, disturbances)
        seconds = time.monotonic() - started

        latency = latencies(nodes[0].get("/metrics")[1], "ledger")
        exits = [await asyncio.to_thread(node.stop, DRAINED_WITHIN) for node in nodes]
        outcome = Outcome(await backlog.read("DONE"), await backlog.read("DEAD"))
        left = await backlog.messages("FETCH", "LATER", "PROGRESS")
        nats_server.look()
    # The judge has ended with the block, and so told its score and written its log.
    score = judge.score
    mistakes = outcome.wrong(dict(zip(seqs, fetches)), data)
    verification = verified(args, data, fetches_file, calls)
    for kind, what in verification.mistakes.items():
        if kind != "called_again":
            mistakes[f"objects: {kind}"] = what
    mistakes["disturbances"] = disturbances.wrong + [f"not done: {kind.__name__}" for _, kind in disturbances.planned]
    mistakes["refused"] = [score["refused_by"]] if score["refused"] and "refused_by" in score else []
    if score["refused"] and not mistakes["refused"]:
        mistakes["refused"] = [score["refused"]]
    if left != 0:
        mistakes["left in FETCH, LATER or PROGRESS"] = [left]
    if any(code != 0 for code in exits):
        mistakes["exits of drained nodes"] = exits
    if not disturbances.happened and args.nodes == 1 and score["calls"] != len(fetches):
        mistakes["calls without need"] = [score["calls"] - len(fetches)]
    if args.share_min and (score["share"] or 0) < args.share_min:
        mistakes["share"] = [score["share"]]
    mistakes = {kind: what for kind, what in mistakes.items() if what}
    return {
        "good": not mistakes,
        "mistakes": {kind: {"count": len(what), "named": what[:NAMED_MAX]} for kind, what in mistakes.items()},
        "judge": args.judge,
        "limits": [limit.for_limits() for limit in args.limit],
        "latency": args.latency,
        "guard": args.guard or "default",
        "sync": args.sync,
        "store": "s3" if args.s3s_fs else "file",
        "seed": args.seed,
        "disturbances": disturbances.happened,
        "accounts": args.accounts,
        "fetches": len(fetches),
        "done": len(outcome.done),
        "done_again": sum(len(events) - 1 for events in outcome.done.values()),
        "dead": len(outcome.dead),
        "objects": verification.objects,
        "bytes": verification.bytes,
        "calls": score["calls"],
        "called_again": score["calls"] - len(fetches),
        "refused": score["refused"],
        "window_max": score.get("window_max"),
        "share": score["share"],
        "share_by_account": shares_by_account(args, calls, backlog.published_ns) if args.judge == "limits" else None,
        "needed": score["needed"],
        "taken": score["taken"],
        "seconds": round(seconds, 3),
        "published_per_s": round(len(fetches) / (published - started)),
        "nodes": [node.usage.told() for node in nodes],
        "node_cpu_ms_per_fetch": round(sum(node.usage.cpu_seconds() for node in nodes) * 1000 / len(fetches), 3),
        "nats_server": nats_server.usage.told(),
        "ledger_ms": latency,
    }


def run_in_folder(args, run, prefix: str):
    """Runs in --dir or a folder that is kept on failure only; ends all servers; prints the result; exits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if not os.access(args.tollgate, os.X_OK):
        raise SystemExit(f"{args.tollgate} is not there: cargo build --release, or name it by --tollgate")
    args.tollgate = args.tollgate.resolve()
    if args.dir:
        args.dir.mkdir(parents=True)
    folder = args.dir.resolve() if args.dir else pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    servers = []
    # So that SIGTERM, too, ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        result = asyncio.run(run(args, folder, servers))
    except Failure as failure:
        result = {"good": False, "mistakes": {"failure": str(failure)}}
    finally:
        # Nodes first, so that none has to complain that its servers are gone.
        for server in reversed(servers):
            server.stop()
    if not result["good"]:
        for server in servers:
            print(server.tail(), file=sys.stderr)
        print(f"logs, streams and objects are kept in {folder}", file=sys.stderr)
    elif not args.dir:
        shutil.rmtree(folder)
    print(json.dumps(result))
    sys.exit(0 if result["good"] else 1)


def add_servers(parser):
    """Arguments of all scripts that run `serve`."""
    parser.add_argument("--tollgate", type=pathlib.Path, default=HERE.parent.parent / "target/release/tollgate")
    parser.add_argument("--nats-server", help="the binary; else $TOLLGATE_NATS_SERVER, target/judge/bin, PATH")
    parser.add_argument("--dir", type=pathlib.Path, help="folder for everything, kept; else a temporary one")
    parser.add_argument("--log-level", default="info", help="of the nodes")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--calls", type=int, default=10, help="per account")
    parser.add_argument("--limit", type=Limit, action="append", help='"2 per 1 s", the default; several with `limits`')
    parser.add_argument("--judge", choices=["limits", "nginx"], default="limits")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before an answer's head")
    parser.add_argument("--body-bytes", type=int, help="length of an answer's body; 256 if not given")
    parser.add_argument("--guard", help='such as "100ms" or "never"; the default if not given')
    parser.add_argument("--sync", choices=["default", "always"], default="default", help="nats-server's sync_interval")
    parser.add_argument("--s3s-fs", type=pathlib.Path, help="the S3 server; without it objects go to files")
    parser.add_argument("--s3-nice", type=int, default=0, help="its niceness, as if it had a machine of its own")
    parser.add_argument("--s3-concurrency", type=int, default=256, help="operations of the node at once")
    parser.add_argument("--nodes", type=int, default=1, help="more than one: by mistake, on the same accounts")
    parser.add_argument("--publish-first", action="store_true", help="all is published before a node starts")
    parser.add_argument("--kill-node", type=int, default=0, metavar="TIMES", help="kill -9, and start again at once")
    parser.add_argument("--kill-nats", type=int, default=0, metavar="TIMES", help="the same with nats-server")
    parser.add_argument("--stop-nats", type=float, default=0, metavar="SECONDS", help="away for so long, once")
    parser.add_argument("--freeze-nats", type=float, default=0, metavar="SECONDS", help="SIGSTOP for so long, once")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the moments; printed")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds in which some fetch must leave the queue")
    parser.add_argument("--share-min", type=float, help="the least share of the allowed rate that is good")
    add_servers(parser)
    args = parser.parse_args()
    args.limit = args.limit or [Limit("2 per 1 s")]
    run_in_folder(args, run, "served-")


if __name__ == "__main__":
    main()
