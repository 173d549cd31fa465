"""Carries the connections of one host to others, so that the host can be cut off: SIGSTOP, and nothing comes through.

One port for each `--to`. Nothing is closed while it is stopped: both ends hear nothing, as when a cable is out, and after
SIGCONT what was under way arrives late.
"""

import argparse
import asyncio
import json
import signal

import uvloop


class Side(asyncio.Protocol):
    """One end of a connection that is carried. What comes before the other end is there waits for it."""

    def __init__(self):
        self.other = None
        self.transport = None
        self.early = []
        self.is_lost = False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, _error):
        self.is_lost = True
        if self.other is not None:
            self.other.transport.close()


class Near(Side):
    def __init__(self, to: int):
        super().__init__()
        self.to = to

    def connection_made(self, transport):
        super().connection_made(transport)
        self.task = asyncio.get_running_loop().create_task(self.connect())

    async def connect(self):
        try:
            _, far = await asyncio.get_running_loop().create_connection(Side, "127.0.0.1", self.to)
        except OSError:
            self.transport.abort()
            return
        far.other = self
        for data in self.early:
            far.transport.write(data)
        self.other, self.early = far, None
        if self.is_lost:
            far.transport.close()


async def serve(args):
    loop = asyncio.get_running_loop()
    for port, to in zip(args.port, args.to, strict=True):
        await loop.create_server(lambda to=to: Near(to), "127.0.0.1", port, backlog=1024)
    print(json.dumps({"listening": f"127.0.0.1:{args.port[0]}"}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, action="append", required=True, help="to listen on; one for each --to")
    parser.add_argument("--to", type=int, action="append", required=True, help="where its connections go")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
