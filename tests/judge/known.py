"""Figures of `serve` with very many accounts that have work: memory of node and server, time until the first permit and
until all accounts are known; once cold, and once more with a ledger record of every account. Not a test: it takes minutes.

    known.py --accounts 100000
    known.py --accounts 1000000

Every account has two fetches and may make one call an hour: the first round calls each once, and then all wait. Then the
node is drained and started again; one account more, published before, shows when the first permit is given again.
The last line is one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import shutil
import sys
import threading
import time
import urllib.request

from backlog import Backlog
from many import memory, write_fetches
from run_served import add_servers, run_in_folder
from running import Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path

LOOK_EVERY = 0.25
# Objects so old are removed, with all of their account's: a million of them would fill the disk of a test machine.
REMOVED_AFTER = 20.0
# How long memory is looked at when nothing happens any more.
SETTLES = 20.0


def settings(port: int, nats_url: str, data: pathlib.Path) -> str:
    return "\n".join(
        [
            "[nats]",
            f"url = {json.dumps(nats_url)}",
            "[store]",
            f"url = {json.dumps(f'file:{data}')}",
            "[platforms.judge]",
            f'base_url = "http://127.0.0.1:{port}/"',
            'headers = { X-Account = "{account}" }',
            'limits.hour = { per = ["account"], max = 1, in = "1h" }',
            "[platforms.judge.apis.report]",
            'path = "report"',
            'query = { n = "{n}" }',
            "",
        ]
    )


def gauge(node: Node, name: str) -> float:
    """The sum over a metric's labels; 0 while nobody answers."""
    lines = node.get("/metrics")[1].splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def score(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/__score", timeout=30) as answer:
        return json.load(answer)


def keep_small(objects: pathlib.Path, stop: threading.Event):
    """Removes the folders of accounts that were stored a while ago; none of them is written to again in a round."""
    while not stop.wait(REMOVED_AFTER / 4):
        old = time.time() - REMOVED_AFTER
        for folder in objects.glob("judge/*/*"):
            if folder.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)


async def round_of(node: Node, server: NatsServer, port: int, accounts: int, calls: int, patience: float) -> dict:
    """Starts the node; waits until it knows so many accounts and the provider saw so many calls."""
    before = score(port)["calls"]
    cpu = server.usage.cpu_seconds(), node.usage.cpu_seconds()
    started = time.monotonic()
    node.start()
    known_s = first_s = last = None
    moved_at = started
    while True:
        node.must_live()
        known, seen = await asyncio.to_thread(gauge, node, "tollgate_accounts_known"), score(port)
        now = time.monotonic()
        if known_s is None and known >= accounts:
            known_s = now - started
        if first_s is None and seen["calls"] > before:
            # The provider tells the very first only; otherwise it is as exact as the looking.
            first_s = now - started if before else seen["first_ns"] / 1e9 - started
        if known_s is not None and seen["calls"] - before >= calls:
            called_s = now - started
            break
        if (known, seen["calls"]) != last:
            last, moved_at = (known, seen["calls"]), now
        if now - moved_at > patience:
            raise Failure(f"nothing moved for {patience:.0f} s: {known} known, {seen['calls'] - before} of {calls} calls")
        await asyncio.sleep(LOOK_EVERY)
    await asyncio.sleep(SETTLES)
    node.look()
    server.look()
    points = memory(node, started)
    told = {
        "first_call_s": round(first_s, 2),
        "all_known_s": round(known_s, 2),
        "all_called_s": round(called_s, 2),
        "live": gauge(node, "tollgate_accounts_live"),
        "resting": gauge(node, "tollgate_accounts_resting"),
        "waiting": gauge(node, "tollgate_fetches_waiting"),
        "node_rss_mb_after": points[-1][1],
        "node_rss_mb_max": round(node.usage.rss_max / 1e6, 1),
        "node_rss_mb": points,
        "node_cpu_s": round(node.usage.cpu_seconds() - cpu[1], 1),
        "nats_server_rss_mb_after": memory(server, started)[-1][1],
        "nats_server_rss_mb_max": round(server.usage.rss_max / 1e6, 1),
        "nats_server_cpu_s": round(server.usage.cpu_seconds() - cpu[0], 1),
    }
    # A long run that fails later has told this much.
    print(json.dumps(told), file=sys.stderr, flush=True)
    if (seen := score(port)["calls"] - before) != calls:
        raise Failure(f"{seen} calls where {calls} are allowed")
    if (code := await asyncio.to_thread(node.stop, DRAINED_WITHIN)) != 0:
        raise Failure(f"the drained node's exit was {code}")
    return told


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    fetches = folder / "fetches.jsonl"
    write_fetches(args.accounts, 2 * args.accounts, fetches)
    server = NatsServer(folder, nats_server_path(args.nats_server), args.sync)
    servers.append(server)
    server.start().wait_listening()
    async with contextlib.AsyncExitStack() as stack:
        provider = Running("fast.py", "--port", port := free_port())
        stack.enter_context(provider)
        node = Node("node-0", folder, args.tollgate, settings(port, server.url, folder / "objects"), log_level=args.log_level)
        servers.append(node)
        node.command_output("setup")
        backlog = await stack.enter_async_context(Backlog(server.url))
        server.look()
        empty_mb = memory(server, 0)[-1][1]
        started = time.monotonic()
        await asyncio.to_thread(node.command_output, "publish", fetches, "--json")
        published_s = time.monotonic() - started
        server.look()
        full_mb = memory(server, 0)[-1][1]
        stop = threading.Event()
        stack.callback(stop.set)
        threading.Thread(target=keep_small, args=(folder / "objects", stop), daemon=True).start()
        cold = await round_of(node, server, port, args.accounts, args.accounts, args.patience)
        if (left := await backlog.messages("FETCH")) != args.accounts:
            raise Failure(f"{left} fetches wait where {args.accounts} should")
        more = {"id": "more", "platform": "judge", "account": "one_more", "api": "report", "params": {"n": "0"}}
        await backlog.publish([more])
        again = await round_of(node, server, port, args.accounts, 1, args.patience)
    return {
        "good": True,
        "accounts": args.accounts,
        "published_s": round(published_s, 1),
        "nats_server_rss_mb_empty": empty_mb,
        "nats_server_rss_mb_published": full_mb,
        "cold": cold,
        "again": again,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--sync", choices=["default", "always"], default="default", help="nats-server's sync_interval")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds in which something must happen")
    add_servers(parser)
    parser.set_defaults(log_level="warn")
    run_in_folder(parser.parse_args(), run, "known-")


if __name__ == "__main__":
    main()
