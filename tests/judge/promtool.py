"""Has Prometheus' own `promtool` check the alert rules and what a live node says at /metrics.

The node is `tollgate serve` on a real nats-server that has done some fetches, so that series of every kind are there. Exit 0 if
promtool finds nothing wrong with either; its words are shown otherwise.

    promtool.py --tollgate target/debug/tollgate
"""

import argparse
import asyncio
import json
import pathlib
import shutil
import subprocess

from backlog import Backlog
from many import settings, until_done, write_fetches
from run_served import add_servers, run_in_folder
from running import Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path

RULES = pathlib.Path(__file__).parent.parent.parent / "docker/observe/alerts.yaml"
# Enough that every histogram of the way of a fetch has counted.
FETCHES = 50
SERIES_MIN = 100


def promtool(args, *words, text: str | None = None) -> str:
    done = subprocess.run([args.promtool, *map(str, words)], input=text, capture_output=True, text=True)
    told = done.stdout + done.stderr
    # `check metrics` warns with exit 3, and exit 0 with words is a warning too in some versions.
    if done.returncode != 0:
        raise Failure(f"promtool {' '.join(map(str, words))}: exit {done.returncode}: {told.strip()}")
    return told.strip()


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    rules = promtool(args, "check", "rules", RULES)
    fetches = folder / "fetches.jsonl"
    write_fetches(10, FETCHES, fetches)
    nats_server = NatsServer(folder, nats_server_path(args.nats_server))
    servers.append(nats_server)
    nats_server.start().wait_listening()
    with Running("fast.py", "--port", port := free_port()):
        node = Node("node-0", folder, args.tollgate, settings(port, [nats_server], folder / "objects"))
        servers.append(node)
        node.command_output("setup")
        node.start().wait_ready()
        async with Backlog(nats_server.url) as backlog:
            with fetches.open() as lines:
                await backlog.publish(map(json.loads, lines))
            await until_done(backlog, node, FETCHES, 60.0)
        status, text = node.get("/metrics")
        if await asyncio.to_thread(node.stop, DRAINED_WITHIN) != 0:
            raise Failure("the node did not drain")
    nats_server.stop()
    series = [line for line in text.splitlines() if line and not line.startswith("#")]
    if status != 200 or len(series) < SERIES_MIN:
        raise Failure(f"/metrics answered {status} with {len(series)} series")
    told = promtool(args, "check", "metrics", text=text)
    return {"good": True, "mistakes": {}, "rules": rules.splitlines()[-1].strip(), "series": len(series), "told": told}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promtool", default=shutil.which("promtool"))
    add_servers(parser)
    args = parser.parse_args()
    if not args.promtool:
        raise SystemExit("promtool is missing: Debian has it in the package `prometheus`")
    run_in_folder(args, run, "promtool-")


if __name__ == "__main__":
    main()
