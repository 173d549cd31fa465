"""Figures of `serve` with very many fetches: how fast they are published, how soon the first is called, memory over
time, and whether the millionth goes as fast as the first. Not a test: it takes minutes.

    many.py --fetches 1000000 --accounts 100000
    many.py --fetches 1000000 --accounts 1 --drain-some 100000

The api has no limits and the provider answers at once. The last line is one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
import time

from backlog import Backlog
from run_served import add_servers, run_in_folder
from running import HERE, Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, Server, nats_cluster, nats_server_path

# Time between two looks at the streams, and points kept of each server's memory.
LOOK_EVERY = 0.5
POINTS_MAX = 40
# Seconds.
ELECTED_WITHIN = 15


def settings(port: int, nats_servers: list, data: pathlib.Path) -> str:
    """A platform without limits on the fast provider."""
    return "\n".join(
        [
            "[nats]",
            f"url = {json.dumps(','.join(server.url for server in nats_servers))}",
            f"replicas = {len(nats_servers)}",
            "[store]",
            f"url = {json.dumps(f'file:{data}')}",
            "[platforms.judge]",
            f'base_url = "http://127.0.0.1:{port}/"',
            'headers = { X-Account = "{account}" }',
            "[platforms.judge.apis.report]",
            'path = "report"',
            'query = { n = "{n}" }',
            "",
        ]
    )


def write_fetches(accounts: int, fetches: int, path: pathlib.Path):
    """All accounts in turn. As many for each, so the last round may be cut."""
    each = -(-fetches // accounts)
    with path.open("w") as file:
        command = [sys.executable, "fetches.py", "--accounts", str(accounts), "--fetches", str(each), "--in-turn"]
        written = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
        for _, line in zip(range(fetches), written.stdout):
            file.write(line)
        written.terminate()
        written.wait()


async def set_up(node: Node):
    """A cluster of NATS elects its leader first."""
    for _ in range(ELECTED_WITHIN):
        try:
            return node.command_output("setup")
        except Failure:
            await asyncio.sleep(1)
    return node.command_output("setup")


async def publish_by_nats_py(backlog: Backlog, path: pathlib.Path) -> float:
    started = time.monotonic()
    with path.open() as lines:
        await backlog.publish(map(json.loads, lines))
    return time.monotonic() - started


async def until_done(backlog: Backlog, node: Node, enough: int, patience: float):
    last, moved_at = -1, time.monotonic()
    while True:
        done = await backlog.messages("DONE", "DEAD") or 0
        if done >= enough:
            return
        node.must_live()
        if done > last:
            last, moved_at = done, time.monotonic()
        if time.monotonic() - moved_at > patience:
            raise Failure(f"nothing ended for {patience:.0f} s: {done} of {enough}")
        await asyncio.sleep(LOOK_EVERY)


def memory(server: Server, since: float) -> list:
    """[seconds since the node's start, MB] at a few moments."""
    points = [(at - since, rss) for at, rss in server.usage.rss_over_time if at >= since]
    step = -(-len(points) // POINTS_MAX) or 1
    return [[round(at, 1), round(rss / 1e6, 1)] for at, rss in points[::step]]


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    fetches = folder / "fetches.jsonl"
    write_fetches(args.accounts, args.fetches, fetches)
    path = nats_server_path(args.nats_server)
    nats_servers = nats_cluster(folder, path, args.sync) if args.nats == 3 else [NatsServer(folder, path, args.sync)]
    servers += nats_servers
    for server in nats_servers:
        server.start()
    for server in nats_servers:
        server.wait_listening()
    nats_server = nats_servers[0]
    async with contextlib.AsyncExitStack() as stack:
        provider = Running("fast.py", "--port", port := free_port())
        stack.enter_context(provider)
        text = settings(port, nats_servers, folder / "objects")
        node = Node("node-0", folder, args.tollgate, text, log_level=args.log_level)
        servers.append(node)
        await set_up(node)
        backlog = await stack.enter_async_context(Backlog(nats_server.url))

        told = None
        if args.nats_py:
            seconds = await publish_by_nats_py(backlog, fetches)
        else:
            started = time.monotonic()
            lines = await asyncio.to_thread(node.command_output, "publish", fetches, "--json")
            seconds = time.monotonic() - started
            told = json.loads(lines.splitlines()[-1])
        if (stored := await backlog.messages("FETCH")) != args.fetches:
            raise Failure(f"{args.fetches} fetches were published, {stored} are stored; {told}")
        nats_server.look()
        published = {
            "by": "nats-py" if args.nats_py else "tollgate publish",
            "seconds": round(seconds, 2),
            "per_s": round(args.fetches / seconds),
            "told": told,
            "nats_server": nats_server.usage.told(),
        }

        enough = min(args.drain_some or args.fetches, args.fetches)
        for server in nats_servers:
            server.look()
        cpu_before = sum(server.usage.cpu_seconds() for server in nats_servers)
        started = time.monotonic()
        node.start()
        await until_done(backlog, node, enough, args.patience)
        seconds = time.monotonic() - started
        node.look()
        for server in nats_servers:
            server.look()
        exit_code = await asyncio.to_thread(node.stop, DRAINED_WITHIN)
        dead = await backlog.messages("DEAD")
        done = await backlog.messages("DONE")
        left = await backlog.messages("FETCH", "LATER")
    score = provider.score
    mistakes = []
    if dead:
        mistakes.append(f"{dead} are dead")
    if exit_code != 0:
        mistakes.append(f"the drained node's exit was {exit_code}")
    if done + left != args.fetches:
        mistakes.append(f"{done} done and {left} left are not {args.fetches}")
    return {
        "good": not mistakes,
        "mistakes": mistakes,
        "fetches": args.fetches,
        "accounts": args.accounts,
        "sync": args.sync,
        "nats": args.nats,
        "publish": published,
        "done": done,
        "left": left,
        "calls": score["calls"],
        "first_call_after_s": round(score["first_ns"] / 1e9 - started, 3),
        "seconds": round(seconds, 2),
        "per_s": score["per_s"],
        "per_s_first_1000": score["per_s_first"],
        "per_s_last_1000": score["per_s_last"],
        "per_s_tenths": score["per_s_tenths"],
        "node": node.usage.told(),
        "node_cpu_ms_per_fetch": round(node.usage.cpu_seconds() * 1000 / done, 3),
        "node_rss_mb": memory(node, started),
        "nats_server": nats_server.usage.told(),
        "nats_server_cpu_ms_per_fetch": round(
            (sum(server.usage.cpu_seconds() for server in nats_servers) - cpu_before) * 1000 / done, 3
        ),
        "nats_server_rss_mb": memory(nats_server, started),
        "provider": {"cpu_s": score["cpu_s"], "ceiling_per_s": score["ceiling_per_s"]},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fetches", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--drain-some", type=int, metavar="N", help="the node is stopped after so many")
    parser.add_argument("--nats-py", action="store_true", help="publish by nats-py, not by `tollgate publish`")
    parser.add_argument("--sync", choices=["default", "always"], default="default", help="nats-server's sync_interval")
    parser.add_argument("--nats", type=int, default=1, choices=[1, 3], help="servers of NATS, and replicas")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds in which some fetch must end")
    add_servers(parser)
    parser.set_defaults(log_level="warn")
    run_in_folder(parser.parse_args(), run, "many-")


if __name__ == "__main__":
    main()
