"""What it costs to be seen: fetches a second and CPU per fetch of `tollgate serve` with everything on, against all off.

On: logs at info as JSON into a file, /metrics read each second and, with `--live PATH`, a reader of the page's stream of events
for the whole time. Off: logs at error, no HTTP. In turns on the same machine, the one that begins changing each round; the api has
no limits and the provider answers at once. Medians over the rounds; exit 0 if "on" makes at most `--less` fewer fetches a second.

    cost.py --fetches 20000 --accounts 2000 --rounds 6 --live /api/v1/events
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import pathlib
import shutil
import statistics
import threading
import time

from backlog import Backlog
from many import settings, until_done, write_fetches
from run_served import add_servers, run_in_folder
from running import Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path

WAYS = ["on", "off"]
SCRAPES_EVERY = 1.0


class Reader:
    """Reads something of a node again and again, or for as long as it comes, until the block ends."""

    def __init__(self, port: int, path: str, every: float | None):
        self.port, self.path, self.every = port, path, every
        self.reads = self.bytes = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.read_all, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join(timeout=5)

    def read_all(self):
        while not self.is_over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.read()
            self.is_over.wait(self.every or 0.2)

    def read(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", self.path)
            answer = connection.getresponse()
            if answer.status != 200:
                return
            while (piece := answer.read1(65536)) and not self.is_over.is_set():
                self.bytes += len(piece)
                self.reads += self.every is None
            self.reads += self.every is not None


async def one(args, folder: pathlib.Path, fetches: pathlib.Path, servers: list, way: str) -> dict:
    nats_server = NatsServer(folder, nats_server_path(args.nats_server))
    servers.append(nats_server)
    nats_server.start().wait_listening()
    async with contextlib.AsyncExitStack() as stack:
        provider = Running("fast.py", "--port", port := free_port())
        stack.enter_context(provider)
        text = settings(port, [nats_server], folder / "objects")
        is_on = way == "on"
        environment = {} if is_on else {"TOLLGATE__HTTP__LISTEN": "off"}
        node = Node("node-0", folder, args.tollgate, text, environment, "info" if is_on else "error")
        servers.append(node)
        node.command_output("setup")
        backlog = await stack.enter_async_context(Backlog(nats_server.url))
        with fetches.open() as lines:
            await backlog.publish(map(json.loads, lines))
        node.start()
        readers = []
        if is_on:
            readers.append(stack.enter_context(Reader(node.port, "/metrics", SCRAPES_EVERY)))
        if is_on and args.live:
            readers.append(stack.enter_context(Reader(node.port, args.live, None)))
        began = time.monotonic()
        await until_done(backlog, node, args.fetches, args.patience)
        took = time.monotonic() - began
        node.look()
        nats_server.look()
        if await asyncio.to_thread(node.stop, DRAINED_WITHIN) != 0:
            raise Failure("the node did not drain")
    nats_server.stop()
    score = provider.score
    if score["calls"] != args.fetches:
        raise Failure(f"{score['calls']} calls were made for {args.fetches} fetches")
    # Whoever reads nothing measures nothing.
    for reader in readers:
        if reader.reads < max(1, took / SCRAPES_EVERY / 3):
            raise Failure(f"{reader.path} was read {reader.reads} times in {took:.0f} s")
    return {
        "per_s": score["per_s"],
        "cpu_ms_per_fetch": node.usage.cpu_seconds() * 1000 / args.fetches,
        # A machine that is slow for a while is slow for both.
        "cpu_by_that_of_nats": node.usage.cpu_seconds() / nats_server.usage.cpu_seconds(),
        "log_bytes": node.log.stat().st_size,
        "read_bytes": sum(reader.bytes for reader in readers),
    }


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    fetches = folder / "fetches.jsonl"
    write_fetches(args.accounts, args.fetches, fetches)
    found = {way: [] for way in WAYS}
    for turn in range(args.rounds):
        for way in WAYS if turn % 2 == 0 else reversed(WAYS):
            place = folder / f"{turn}-{way}"
            place.mkdir()
            found[way].append(await one(args, place, fetches, servers, way))
            # Only what failed is looked at.
            shutil.rmtree(place)
            servers.clear()
    medians = {
        way: {name: round(statistics.median(one[name] for one in rounds), 4) for name in rounds[0]}
        for way, rounds in found.items()
    }
    for way, rounds in found.items():
        medians[way]["per_s_of_each"] = [one["per_s"] for one in rounds]
    ratio = medians["on"]["per_s"] / medians["off"]["per_s"]
    # Each round by itself: what else the machine did fell on both.
    of_rounds = [on["per_s"] / off["per_s"] for on, off in zip(found["on"], found["off"])]
    mistakes = {}
    if ratio < 1 - args.less:
        mistakes["cost"] = f"with everything on {1 - ratio:.1%} fewer fetches a second, at most {args.less:.0%} may be"
    return {
        "good": not mistakes,
        "mistakes": mistakes,
        "ratio": round(ratio, 4),
        "ratio_of_rounds": {"median": round(statistics.median(of_rounds), 4), "each": [round(one, 3) for one in of_rounds]},
        "cpu_ratio": round(medians["on"]["cpu_ms_per_fetch"] / medians["off"]["cpu_ms_per_fetch"], 4),
        "cpu_ratio_by_that_of_nats": round(medians["on"]["cpu_by_that_of_nats"] / medians["off"]["cpu_by_that_of_nats"], 4),
        "fetches": args.fetches,
        "accounts": args.accounts,
        "live": args.live,
        "medians": medians,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetches", type=int, default=20_000)
    parser.add_argument("--accounts", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=6, help="even: on some machines the first of a round is faster")
    parser.add_argument("--less", type=float, default=0.05, help="by how much fewer fetches a second are allowed")
    parser.add_argument("--live", default=None, help="the path of a stream of events that is read too")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds in which some fetch must end")
    add_servers(parser)
    run_in_folder(parser.parse_args(), run, "cost-")


if __name__ == "__main__":
    main()
