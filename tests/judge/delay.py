"""A network that takes its time: a TCP proxy on loopback before a judge.

Every piece of bytes waits a random time of its own in each direction, evenly spread from nothing to `--delay` seconds. What
went on one connection keeps its order, as TCP keeps it; connections overtake each other freely. What was sent is never
changed, joined or lost.
"""

import argparse
import asyncio
import collections
import json
import random
import resource
import signal

import uvloop


class OneWay:
    """Pieces on their way from one end to the other, each at its own time and all in order."""

    def __init__(self, network, to):
        self.network = network
        self.to = to
        self.pieces = collections.deque()
        self.last_at = 0.0

    def send(self, piece: bytes | None):
        """`None`: the other end will hear no more."""
        network = self.network
        wait = network.random.uniform(0.0, network.delay)
        network.pieces += piece is not None
        network.waited += wait
        loop = network.loop
        # Never before the piece in front of it.
        self.last_at = max(self.last_at, loop.time() + wait)
        self.pieces.append(piece)
        loop.call_at(self.last_at, self.deliver)

    def deliver(self):
        piece = self.pieces.popleft()
        if self.to is None or self.to.is_closing():
            return
        if piece is None:
            self.to.close()
        else:
            self.to.write(piece)


class Upstream(asyncio.Protocol):
    def __init__(self, back: OneWay):
        self.back = back

    def data_received(self, data):
        self.back.send(data)

    def connection_lost(self, _):
        self.back.send(None)


class Client(asyncio.Protocol):
    def __init__(self, network):
        self.network = network

    def connection_made(self, transport):
        self.back = OneWay(self.network, transport)
        self.forth = OneWay(self.network, None)
        self.early = []
        self.network.connections += 1
        self.task = self.network.loop.create_task(self.connect(transport))

    async def connect(self, transport):
        try:
            upstream, _ = await self.network.loop.create_connection(
                lambda: Upstream(self.back), "127.0.0.1", self.network.to
            )
        except OSError:
            transport.abort()
            return
        self.forth.to = upstream
        for piece in self.early:
            self.forth.send(piece)
        self.early = None

    def data_received(self, data):
        self.forward(data)

    def connection_lost(self, _):
        self.forward(None)

    def forward(self, piece):
        # Before the connection beyond is there, pieces wait for it, and then for their own time.
        if self.early is not None:
            self.early.append(piece)
        else:
            self.forth.send(piece)


class Network:
    def __init__(self, args):
        self.delay, self.to = args.delay, args.to
        self.random = random.Random(args.seed)
        self.loop = asyncio.get_running_loop()
        self.connections, self.pieces, self.waited = 0, 0, 0.0

    def told(self) -> dict:
        mean_ms = self.waited * 1000 / self.pieces if self.pieces else None
        return {"connections": self.connections, "pieces": self.pieces, "delay_mean_ms": mean_ms and round(mean_ms, 2)}


async def serve(args):
    network = Network(args)
    listening = await network.loop.create_server(lambda: Client(network), "127.0.0.1", args.port, backlog=4096)
    port = listening.sockets[0].getsockname()[1]
    print(json.dumps({"listening": f"127.0.0.1:{port}"}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        network.loop.add_signal_handler(number, stop.set)
    await stop.wait()
    print(json.dumps(network.told()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    parser.add_argument("--to", type=int, required=True, help="the judge's port")
    parser.add_argument("--delay", type=float, default=0.05, help="most seconds that a piece waits, in each direction")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(args))


if __name__ == "__main__":
    main()
