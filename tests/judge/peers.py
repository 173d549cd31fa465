"""What others let through: the same work by well-known limiters, written as their documentation shows, before the same judge.

    peers.py --peer aiolimiter --accounts 1000 --calls 10 --limit "1 per 1 s"
    peers.py --peer pyrate-limiter --accounts 200 --calls 20 --limit "2 per 1 s" --limit "10 per 10 s" --latency 0.3
    peers.py --peer scrapy --accounts 200 --calls 20 --limit "1 per 1 s"

One limiter for each account; a refused call is made again after its Retry-After. They need more than the judges do:
`pip install -r peers.txt`, into an environment of its own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys

from run_judged import Limit
from running import HERE, Running, free_port

# Most calls of one fetch before a peer gives up.
TRIES_MAX = 20


def aiolimiter_of(limits: list[Limit]):
    from aiolimiter import AsyncLimiter

    own = [AsyncLimiter(limit.max, limit.seconds) for limit in limits]

    async def acquire():
        for limiter in own:
            await limiter.acquire()

    return acquire


def pyrate_of(limits: list[Limit]):
    from pyrate_limiter import Duration, Limiter, Rate

    limiter = Limiter([Rate(limit.max, Duration.SECOND * limit.seconds) for limit in limits])

    async def acquire():
        await limiter.try_acquire_async("account")

    return acquire


def nothing_of(_):
    """No limiter: what the machine and the judge could do, and what the provider would refuse."""

    async def acquire():
        pass

    return acquire


ASYNCIO = {"aiolimiter": aiolimiter_of, "pyrate-limiter": pyrate_of, "none": nothing_of}


async def with_asyncio(args):
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def fetch(account: str, n: int, acquire):
            for _ in range(TRIES_MAX):
                await acquire()
                url = f"http://127.0.0.1:{args.port}/report?n={n}"
                async with session.get(url, headers={"X-Account": account}) as answer:
                    await answer.read()
                    if answer.status == 200:
                        return
                    wait = float(answer.headers.get("Retry-After", 1))
                await asyncio.sleep(wait)

        tasks = []
        for a in range(args.accounts):
            acquire = ASYNCIO[args.peer](args.limit)
            tasks += [fetch(f"act_{a:05d}", n, acquire) for n in range(args.calls)]
        await asyncio.gather(*tasks)


def with_scrapy(args):
    import scrapy
    from scrapy.crawler import CrawlerProcess

    # It knows a delay between two calls of a slot, and no window: the longest gap that keeps every limit.
    delay = max(limit.seconds / limit.max for limit in args.limit)

    class Judged(scrapy.Spider):
        name = "judged"

        async def start(self):
            for n in range(args.calls):
                for a in range(args.accounts):
                    account = f"act_{a:05d}"
                    yield scrapy.Request(
                        f"http://127.0.0.1:{args.port}/report?n={n}",
                        headers={"X-Account": account},
                        meta={"download_slot": account},
                        dont_filter=True,
                    )

        def parse(self, _):
            pass

    settings = {
        "DOWNLOAD_DELAY": delay,
        "RANDOMIZE_DOWNLOAD_DELAY": False,
        "CONCURRENT_REQUESTS": 10_000,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 8,
        "RETRY_TIMES": TRIES_MAX,
        "ROBOTSTXT_OBEY": False,
        "LOG_LEVEL": "ERROR",
        "TELNETCONSOLE_ENABLED": False,
    }
    process = CrawlerProcess(settings)
    process.crawl(Judged)
    process.start()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", choices=[*ASYNCIO, "scrapy"], required=True)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--calls", type=int, default=5, help="per account")
    parser.add_argument("--limit", type=Limit, action="append", required=True)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before an answer's head")
    parser.add_argument("--delay", type=float, default=0.0, help="most seconds that bytes wait on their way, each way")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.port:
        # The peer itself, in a process of its own.
        if args.peer == "scrapy":
            with_scrapy(args)
        else:
            import uvloop

            uvloop.run(with_asyncio(args))
        return
    with contextlib.ExitStack() as stack:
        command = ["judge_limits.py", "--port", port := free_port(), "--latency", args.latency, "--log", os.devnull]
        for limit in args.limit:
            command += ["--limit", limit.for_limits()]
        judge = stack.enter_context(Running(*command, "--body-bytes", 256))
        if args.delay:
            network = stack.enter_context(Running("delay.py", "--to", port, "--delay", args.delay))
            port = network.address[1]
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--port", str(port)], cwd=HERE, check=True)
    score = judge.score
    told = {
        "peer": args.peer,
        "calls": score["calls"],
        "refused": score["refused"],
        "missing": args.accounts * args.calls - score["accepted"],
        "share": score["share"] and round(score["share"], 4),
        "needed": score["needed"],
        "taken": round(score["taken"], 3),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
