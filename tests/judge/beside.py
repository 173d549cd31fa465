"""Figures of `tollgate serve` beside `tollgate run` on the same fetches: fetches a second and CPU for each.

In turn, so that whatever else the machine does falls on all: run, serve with nats-server's own sync_interval, serve with
`always`; then again. The api has no limits and the provider answers at once. Medians; the last line is one JSON object.

    beside.py --fetches 20000 --accounts 200 --rounds 5
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import statistics

from backlog import Backlog
from many import settings, until_done, write_fetches
from metrics import latencies
from run_served import add_servers, run_in_folder
from running import Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path

WAYS = ["run", "serve, sync default", "serve, sync always"]


def figures(args, provider: Running, cpu_s: float, more: dict) -> dict:
    score = provider.score
    if score["calls"] != args.fetches:
        raise Failure(f"{score['calls']} calls were made for {args.fetches} fetches")
    return {
        "per_s": score["per_s"],
        "cpu_ms_per_fetch": cpu_s * 1000 / args.fetches,
        "provider_ceiling_per_s": score["ceiling_per_s"],
        **more,
    }


async def one_run(args, folder: pathlib.Path, fetches: pathlib.Path) -> dict:
    port = free_port()
    with Running("fast.py", "--port", port) as provider:
        # `run` checks [nats] and takes no notice of it.
        text = settings(port, "nats://127.0.0.1:1", folder / "objects")
        node = Node("node-0", folder, args.tollgate, text, log_level=args.log_level)
        before = os.times()
        await asyncio.to_thread(node.command_output, "run", fetches, "--json")
        after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return figures(args, provider, cpu, {})


async def one_serve(args, folder: pathlib.Path, fetches: pathlib.Path, servers: list, sync: str) -> dict:
    nats_server = NatsServer(folder, nats_server_path(args.nats_server), sync)
    servers.append(nats_server)
    nats_server.start().wait_listening()
    async with contextlib.AsyncExitStack() as stack:
        provider = Running("fast.py", "--port", port := free_port())
        stack.enter_context(provider)
        text = settings(port, nats_server.url, folder / "objects")
        node = Node("node-0", folder, args.tollgate, text, log_level=args.log_level)
        servers.append(node)
        node.command_output("setup")
        backlog = await stack.enter_async_context(Backlog(nats_server.url))
        with fetches.open() as lines:
            await backlog.publish(map(json.loads, lines))
        nats_server.look()
        nats_before = nats_server.usage.cpu_seconds()
        node.start()
        await until_done(backlog, node, args.fetches, args.patience)
        for server in (nats_server, node):
            server.look()
        latency = latencies(node.get("/metrics")[1], "ledger")
        if await asyncio.to_thread(node.stop, DRAINED_WITHIN) != 0:
            raise Failure("the node did not drain")
    nats_cpu = nats_server.usage.cpu_seconds() - nats_before
    nats_server.stop()
    more = {"nats_server_cpu_ms_per_fetch": nats_cpu * 1000 / args.fetches, "ledger_ms": latency}
    return figures(args, provider, node.usage.cpu_seconds(), more)


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    fetches = folder / "fetches.jsonl"
    write_fetches(args.accounts, args.fetches, fetches)
    found = {way: [] for way in WAYS}
    for turn in range(args.rounds):
        for way in WAYS:
            place = folder / f"{turn}-{WAYS.index(way)}"
            place.mkdir()
            if way == "run":
                found[way].append(await one_run(args, place, fetches))
            else:
                found[way].append(await one_serve(args, place, fetches, servers, way.split()[-1]))
            # Only what failed is looked at; a hundred thousand files are not kept for each.
            shutil.rmtree(place)
            servers.clear()
    medians = {}
    for way, rounds in found.items():
        names = [name for name in rounds[0] if name != "ledger_ms"]
        medians[way] = {name: round(statistics.median(one[name] for one in rounds), 3) for name in names}
        medians[way]["per_s_of_each"] = [one["per_s"] for one in rounds]
        if "ledger_ms" in rounds[-1]:
            medians[way]["ledger_ms_of_the_last"] = rounds[-1]["ledger_ms"]
    return {"good": True, "mistakes": {}, "fetches": args.fetches, "accounts": args.accounts, "medians": medians}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fetches", type=int, default=20_000)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds in which some fetch must end")
    add_servers(parser)
    parser.set_defaults(log_level="warn")
    run_in_folder(parser.parse_args(), run, "beside-")


if __name__ == "__main__":
    main()
