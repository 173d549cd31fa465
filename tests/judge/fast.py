"""A provider on loopback without limits, as fast as Python allows: every request gets the same 200.

It stamps each arrival; `GET /__score` and the end tell the first, the last, and fetches a second over the first and the
last thousand. What a call costs it in CPU is told too, so that a run shows how far from its ceiling it was.
"""

import argparse
import array
import asyncio
import gc
import json
import resource
import signal
import time

import uvloop

BODY = b'{"rows":[' + b",".join(b'{"n":%d}' % n for n in range(100)) + b"]}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
WINDOW = 1000


class Arrivals:
    def __init__(self):
        self.at_ns = array.array("Q")
        # Python's own start costs as much as thousands of calls.
        self.cpu_before = cpu_seconds()

    def score(self) -> dict:
        at = self.at_ns
        cpu = cpu_seconds() - self.cpu_before
        return {
            "calls": len(at),
            # Of CLOCK_MONOTONIC, the same for all processes of a machine.
            "first_ns": at[0] if at else None,
            "last_ns": at[-1] if at else None,
            "per_s": rate(at),
            "per_s_first": rate(at[:WINDOW]),
            "per_s_last": rate(at[-WINDOW:]),
            # Of ten equal parts, to see whether it stays flat.
            "per_s_tenths": [rate(at[len(at) * i // 10 : len(at) * (i + 1) // 10]) for i in range(10)],
            "cpu_s": round(cpu, 2),
            "ceiling_per_s": round(len(at) / cpu) if cpu and at else None,
        }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rate(at) -> int | None:
    return round((len(at) - 1) * 1e9 / (at[-1] - at[0])) if len(at) > 1 and at[-1] > at[0] else None


class Connection(asyncio.Protocol):
    def __init__(self, arrivals: Arrivals):
        self.arrivals = arrivals
        self.transport = None
        self.begun = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        at_ns = time.monotonic_ns()
        if self.begun:
            data = self.begun + data
        heads, _, self.begun = data.rpartition(b"\r\n\r\n")
        if not heads:
            return
        if heads.startswith(b"GET /__score "):
            body = json.dumps(self.arrivals.score()).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        count = heads.count(b"\r\n\r\n") + 1
        for _ in range(count):
            self.arrivals.at_ns.append(at_ns)
        self.transport.write(ANSWER * count)


async def serve(args):
    arrivals = Arrivals()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: Connection(arrivals), "127.0.0.1", args.port, backlog=4096
    )
    print(json.dumps({"listening": f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    print(json.dumps(arrivals.score()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    uvloop.run(serve(args))


if __name__ == "__main__":
    main()
