"""Runs nodes of `tollgate serve` that share the accounts of one nats-server, and tells how evenly and how fast.

The same fetches by one node, by two and by three (`--nodes`): how accounts and calls spread over the nodes, CPU per
fetch, share of the allowed rate. Then, with the most nodes, `--kills` times kill -9 of one of them: seconds until
the others hold all partitions, and until each account of the dead one is called again. Every object and event is
checked as `run_served.py` does; exit 0 only if all is right, the judge refused nothing, the nodes share evenly and the
times are as promised. The last line is one JSON object.

    run_cluster.py --accounts 500 --calls 20 --limit "2 per 1 s" --limit "10 per 10 s"
    run_cluster.py --nodes 3 --accounts 300 --calls 60 --kills 5
    run_cluster.py --nodes 3 --drains 3        # SIGTERM instead: how long a hand-over takes
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

from backlog import Backlog, Outcome, token
from run_judged import Limit, body_bytes, judge_command, platform
from run_served import add_servers, drained, run_in_folder, shares_by_account, verified
from running import HERE, Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path
from verify import NAMED_MAX

PARTITIONS = 64
# Patience for an even share after a node came or went, in seconds.
SHARED_WITHIN = 30.0
LOOK_EVERY = 0.01
# What is promised. Seconds until others hold every partition of a node that was killed, and of one that drains; and from
# then until an account that may call does.
KILLED_P50, KILLED_MAX, DRAINED_MAX, CALLED_AFTER = 5.0, 8.0, 1.0, 0.2
# What arrived so long before the end had been answered and recorded: what had not is charged as if it came later.
SETTLED = 0.2
# The most that one node may have above the mean.
EVEN = 1.15
# A node works so long before the next one is ended.
BETWEEN = 3.0
ATTEMPTS = re.compile(r"^tollgate_attempts_total\{[^}]*\} ([0-9.e+]+)", re.MULTILINE)


def partition(platform_name: str, account: str) -> int:
    """FNV-1a over both tokens, modulo 64: as the server puts accounts into partitions."""
    hashed = 0x811C9DC5
    for byte in (platform_name + token(account)).encode():
        hashed = (hashed ^ byte) * 0x01000193 & 0xFFFFFFFF
    return hashed % PARTITIONS


def held(node: Node) -> list[int]:
    _, body = node.get("/readyz")
    try:
        return json.loads(body).get("partitions") or []
    except ValueError:
        return []


async def shared(nodes: list, seen: dict | None = None) -> float:
    """Waits until these hold every partition once, none of them more than its share; the seconds that took.

    `seen` is told when each partition was held by one of them, in ns of the monotonic clock."""
    started = time.monotonic()
    most = -(-PARTITIONS // len(nodes))
    while True:
        parts = [await asyncio.to_thread(held, node) for node in nodes]
        for part in sum(parts, []) if seen is not None else []:
            seen.setdefault(part, time.monotonic_ns())
        if all(len(part) <= most for part in parts) and sorted(sum(parts, [])) == list(range(PARTITIONS)):
            return time.monotonic() - started
        if time.monotonic() - started > SHARED_WITHIN:
            raise Failure(f"no even share within {SHARED_WITHIN:.0f} s: {[len(part) for part in parts]}")
        await asyncio.sleep(LOOK_EVERY)


def calls_of(node: Node) -> float:
    return sum(map(float, ATTEMPTS.findall(node.get("/metrics")[1])))


def evenness(counts: list[float]) -> float | None:
    mean = statistics.mean(counts)
    return round(max(counts) / mean, 3) if mean else None


def spread(seconds: list[float]) -> dict:
    p50, most = statistics.median(seconds), max(seconds)
    return {"count": len(seconds), "p50": round(p50, 3), "max": round(most, 3)}


def earliest(limit: Limit, at: list[int]) -> int:
    """When the limit allows one more call after these arrivals, in ns."""
    return sorted(at)[-limit.max] + int(limit.seconds * 1e9) if len(at) >= limit.max else 0


class Ends:
    """Nodes that are killed or drained one after the other, and started again."""

    def __init__(self, args, nodes: list):
        self.args = args
        self.nodes = nodes
        self.random = random.Random(args.seed)
        self.happened = []

    async def all(self, backlog: Backlog):
        for kind in ["kill"] * self.args.kills + ["drain"] * self.args.drains:
            await asyncio.sleep(BETWEEN)
            if await backlog.messages("FETCH") == 0:
                raise Failure("no work was left to take over; take more calls per account")
            node = self.random.choice(self.nodes)
            others = [other for other in self.nodes if other is not node]
            parts = held(node)
            at_ns, started = time.monotonic_ns(), time.monotonic()
            if kind == "kill":
                node.kill()
            else:
                node.process.send_signal(15)
            taken_ns = {}
            await shared(others, taken_ns)
            took = time.monotonic() - started
            self.happened.append({"what": kind, "at_ns": at_ns, "taken_s": took, "parts": parts, "taken_ns": taken_ns})
            print(f"{kind} of {node.name}: taken over after {took:.2f} s", file=sys.stderr, flush=True)
            if kind == "drain":
                await asyncio.to_thread(node.process.wait)
            node.start()
            await asyncio.to_thread(node.wait_ready)
            self.happened[-1]["shared_again_s"] = await shared(self.nodes)

    def mistakes(self, told: dict) -> dict:
        """What of the figures is not as promised."""
        wrong = collections.defaultdict(list)
        for kind, figures in told.items():
            p50, most = (KILLED_P50, KILLED_MAX) if kind == "kill" else (DRAINED_MAX, DRAINED_MAX)
            if figures["taken_s"]["p50"] > p50 or figures["taken_s"]["max"] > most:
                wrong[f"taken over late ({kind})"].append(figures["taken_s"])
            if not figures["late_s"] or figures["late_s"]["max"] > CALLED_AFTER:
                wrong[f"called late ({kind})"].append(figures["late_s"])
        return wrong

    def told(self, log: pathlib.Path) -> dict:
        """Figures by kind; `resumed_s` is until the next call of each account that had one within the second before,

        and `late_s` how long after its partition was held, or after its limits allow the call if that was later."""
        calls = collections.defaultdict(list)
        for line in log.read_text().splitlines():
            call = json.loads(line)
            calls[call["account"]].append(call["at_ns"])
        told = {}
        for kind in {end["what"] for end in self.happened}:
            ends = [end for end in self.happened if end["what"] == kind]
            resumed, late = [], []
            for end in ends:
                for account, at in calls.items():
                    part = partition("judge", account)
                    if part not in end["parts"]:
                        continue
                    before = [one for one in at if one <= end["at_ns"]]
                    after = [one for one in at if one > end["at_ns"]]
                    if before and after and end["at_ns"] - max(before) < 1e9:
                        resumed.append((min(after) - end["at_ns"]) / 1e9)
                        if end["at_ns"] - max(before) < SETTLED * 1e9:
                            continue
                        allowed = max(earliest(limit, before) for limit in self.args.limit)
                        late.append((min(after) - max(end["taken_ns"][part], allowed)) / 1e9)
            taken = [end["taken_s"] for end in ends]
            told[kind] = {
                "times": len(ends),
                "taken_s": spread(taken),
                "resumed_s": resumed and spread(resumed),
                "late_s": late and spread(late),
                "shared_again_s": round(max(end["shared_again_s"] for end in ends), 3),
            }
        return told


async def one(args, folder: pathlib.Path, servers: list, count: int, ends: bool) -> dict:
    folder.mkdir()
    fetches_file, calls = folder / "fetches.jsonl", folder / "calls.jsonl"
    with fetches_file.open("w") as file:
        command = ["fetches.py", "--accounts", args.accounts, "--fetches", args.calls, "--in-turn"]
        subprocess.run([sys.executable, *map(str, command)], cwd=HERE, stdout=file, check=True)
    fetches = [json.loads(line) for line in fetches_file.read_text().splitlines()]
    nats_server = NatsServer(folder, nats_server_path(args.nats_server), args.sync)
    servers.append(nats_server)
    nats_server.start().wait_listening()
    data = folder / "objects"
    data.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        judge = Running(*judge_command(args, port := free_port(), calls))
        stack.enter_context(judge)
        settings = f"[nats]\nurl = {json.dumps(nats_server.url)}\nprefix = \"tollgate\"\n"
        settings += f"[store]\nurl = {json.dumps(f'file:{data}')}\n"
        settings += f'[collect]\ntimeouts = {{ connect = "1s" }}\n{platform(args, port)}'
        nodes = [Node(f"node-{i}", folder, args.tollgate, settings, {}, args.log_level) for i in range(count)]
        servers += nodes
        nodes[0].command_output("setup")
        backlog = await stack.enter_async_context(Backlog(nats_server.url))
        for node in nodes:
            node.start()
        for node in nodes:
            await asyncio.to_thread(node.wait_ready)
        joined = await shared(nodes)
        parts = [held(node) for node in nodes]
        cpu_joined = sum(node.usage.cpu_seconds() for node in nodes)
        await asyncio.sleep(args.idle)
        cpu_idle = sum(node.usage.cpu_seconds() for node in nodes)
        started = time.monotonic()
        seqs = await backlog.publish(fetches)
        all_ends = Ends(args, nodes)
        if ends:
            await all_ends.all(backlog)
        # It kills nobody: what happens here happened above.
        quiet = argparse.Namespace(next=lambda *_: asyncio.sleep(0))
        await drained(args, len(fetches), backlog, nodes, quiet)
        seconds = time.monotonic() - started
        made = [calls_of(node) for node in nodes]
        for node in nodes:
            node.look()
        cpu = sum(node.usage.cpu_seconds() for node in nodes) - cpu_idle
        exits = [await asyncio.to_thread(node.stop, DRAINED_WITHIN) for node in nodes]
        outcome = Outcome(await backlog.read("DONE"), await backlog.read("DEAD"))
        left = await backlog.messages("FETCH", "LATER", "PROGRESS")
    score = judge.score
    mistakes = outcome.wrong(dict(zip(seqs, fetches)), data)
    verification = verified(args, data, fetches_file, calls)
    for kind, what in verification.mistakes.items():
        if kind != "called_again":
            mistakes[f"objects: {kind}"] = what
    if score["refused"]:
        mistakes["refused"] = [score.get("refused_by") or score["refused"]]
    if left != 0:
        mistakes["left in FETCH, LATER or PROGRESS"] = [left]
    if any(code != 0 for code in exits):
        mistakes["exits of drained nodes"] = exits
    if not ends and score["calls"] != len(fetches):
        mistakes["calls without need"] = [score["calls"] - len(fetches)]
    by_node = [0] * count
    accounts = {fetch["account"] for fetch in fetches}
    for account in accounts:
        for i, part in enumerate(parts):
            by_node[i] += partition("judge", account) in part
    told = all_ends.told(calls) if ends else {}
    mistakes |= all_ends.mistakes(told)
    if not ends and max(evenness(by_node), evenness(made)) > EVEN:
        mistakes["uneven"] = [by_node, made]
    mistakes = {kind: {"count": len(what), "named": what[:NAMED_MAX]} for kind, what in mistakes.items() if what}
    return {
        "nodes": count,
        "mistakes": mistakes,
        "fetches": len(fetches),
        "done": len(outcome.done),
        "calls": score["calls"],
        "called_again": score["calls"] - len(fetches),
        "refused": score["refused"],
        "share": score["share"],
        "share_by_account": shares_by_account(args, calls, backlog.published_ns),
        "seconds": round(seconds, 2),
        "joined_s": round(joined, 3),
        "partitions": [len(part) for part in parts],
        "accounts": by_node,
        "accounts_max_by_mean": evenness(by_node),
        "calls_max_by_mean": None if ends else evenness(made),
        "idle_cpu_ms_per_s": args.idle and round((cpu_idle - cpu_joined) * 1000 / args.idle, 3),
        "cpu_ms_per_fetch": round(cpu * 1000 / len(fetches), 3),
        "nats_cpu_ms_per_fetch": round(nats_server.usage.cpu_seconds() * 1000 / len(fetches), 3),
        "ends": told,
    }


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    most = max(args.nodes)
    runs = []
    for count in args.nodes:
        ends = count == most and bool(args.kills or args.drains)
        if not ends or len(args.nodes) > 1:
            runs.append(await one(args, folder / f"nodes-{count}", servers, count, False))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
            end(servers)
        if ends:
            runs.append(await one(args, folder / f"ends-{count}", servers, count, True))
            end(servers)
    return {"good": not any(run["mistakes"] for run in runs), "runs": runs, "seed": args.seed}


def end(servers: list):
    while servers:
        servers.pop().stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--accounts", type=int, default=500)
    parser.add_argument("--calls", type=int, default=20, help="per account")
    parser.add_argument("--limit", type=Limit, action="append", help='"2 per 1 s", the default; several')
    parser.add_argument("--idle", type=float, default=0.0, help="seconds without work before the fetches, CPU of which is told")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 so often, with the most nodes")
    parser.add_argument("--drains", type=int, default=0, help="SIGTERM so often, with the most nodes")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before an answer's head")
    parser.add_argument("--body-bytes", type=int, help="length of an answer's body; 256 if not given")
    parser.add_argument("--guard", help='such as "100ms" or "never"; the default if not given')
    parser.add_argument("--sync", choices=["default", "always"], default="default", help="nats-server's sync_interval")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of who is ended; printed")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds in which some fetch must leave the queue")
    add_servers(parser)
    args = parser.parse_args()
    args.limit = args.limit or [Limit("2 per 1 s")]
    args.judge = "limits"
    run_in_folder(args, run, "cluster-")


if __name__ == "__main__":
    main()
