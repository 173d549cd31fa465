"""A provider on loopback whose limits are counted by somebody else's code: the PyPI package `limits`.

It stamps a call when the head of its request has been read and asks MovingWindowRateLimiter for every limit.
A call counts in all limits or in none; a refused one (429) counts in none. `limits` takes its time from
`time.time()` at the moment of asking, so that module's clock is replaced by the stamp of the call being
judged: monotonic, and the same for all its limits. At exactly one window's length after a call, `limits`
still refuses in `hit`: it is stricter by one clock tick than "n in any window".

A request whose query has `of=N` is for one of N pages, and answered with an object that says so.
"""

import argparse
import asyncio
import collections
import gc
import json
import re
import resource
import signal
import time

import limits
from limits.storage import memory
from limits.strategies import MovingWindowRateLimiter

from bodies import judge_body, page_body

# More bytes than this without the end of a head are not HTTP.
HEAD_BYTES_MAX = 64 * 1024
# Calls that are judged before the loop reads from sockets, and so stamps, again.
JUDGED_PER_TURN = 64


class Stamp:
    """Stands in for the module `time` inside `limits`."""

    def __init__(self):
        self.now_ns = time.monotonic_ns()

    def time(self) -> float:
        return self.now_ns / 1e9


class Storage(memory.MemoryStorage):
    """MemoryStorage without its thread, which every 10 ms walks over all accounts while calls wait for it.

    Old entries are cut when new ones come instead: `hit` never looks behind the limit's amount.
    """

    def _MemoryStorage__schedule_expiry(self):
        pass

    def acquire_entry(self, key, limit, expiry, amount=1):
        is_accepted = super().acquire_entry(key, limit, expiry, amount)
        del self.events[key][limit:]
        return is_accepted


class Account:
    """What came from one account, counted without `limits`, so that the score can show both."""

    def __init__(self, items):
        self.calls = 0
        self.accepted = 0
        self.first_ns = None
        self.last_ns = None
        # Arrivals within the last window of each limit.
        self.recent = [collections.deque() for _ in items]


class Judge:
    def __init__(self, texts: list[str], log):
        self.items = [limits.parse(text) for text in texts]
        self.texts = texts
        self.stamp = Stamp()
        memory.time = self.stamp
        self.limiter = MovingWindowRateLimiter(Storage())
        self.log = log
        self.accounts: dict[str, Account] = {}
        self.refused = 0
        self.malformed = 0
        self.refused_by = collections.Counter()
        self.worst_early_ns = 0
        self.gap_min_ns = None
        self.window_max = [0 for _ in self.items]

    def arrive(self, account: str, path_query: str, at_ns: int) -> bool:
        """Whether every limit accepts this call. Calls come in the order of their stamps."""
        self.stamp.now_ns = at_ns
        self._count(account, at_ns)
        named = list(enumerate(self.items))
        over = [i for i, item in named if not self.limiter.test(item, str(i), account)]
        if not over:
            # `test` and `hit` differ only at exactly one window's length.
            over = [i for i, item in named if not self.limiter.hit(item, str(i), account)]
        if over:
            self.refused += 1
            self._keep_refusal(account, over, at_ns)
        else:
            self.accounts[account].accepted += 1
        if self.log:
            call = {"account": account, "at_ns": at_ns, "accepted": not over, "request": path_query}
            self.log.write(json.dumps(call) + "\n")
        return not over

    def _count(self, name: str, at_ns: int):
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(self.items)
        account.calls += 1
        if account.last_ns is None:
            account.first_ns = at_ns
        else:
            gap = at_ns - account.last_ns
            self.gap_min_ns = gap if self.gap_min_ns is None else min(self.gap_min_ns, gap)
        account.last_ns = at_ns
        for i, (item, recent) in enumerate(zip(self.items, account.recent)):
            recent.append(at_ns)
            while recent[0] <= at_ns - item.get_expiry() * 1_000_000_000:
                recent.popleft()
            self.window_max[i] = max(self.window_max[i], len(recent))

    def _keep_refusal(self, account: str, over: list[int], at_ns: int):
        for i in over:
            self.refused_by[self.texts[i]] += 1
            reset_at = self.limiter.get_window_stats(self.items[i], str(i), account).reset_time
            self.worst_early_ns = max(self.worst_early_ns, int(reset_at * 1e9) - at_ns)

    def needed_seconds(self, calls: int) -> float:
        """The least time from the first to the last of so many calls of one account, under all limits."""
        times = []
        for k in range(calls):
            windows = [(item.amount, item.get_expiry()) for item in self.items]
            times.append(max([times[k - n] + within for n, within in windows if k >= n], default=0.0))
        return times[-1] if times else 0.0

    def score(self) -> dict:
        accounts = self.accounts.values()
        first_ns = min((account.first_ns for account in accounts), default=0)
        last_ns = max((account.last_ns for account in accounts), default=0)
        calls = sum(account.calls for account in accounts)
        needed = self.needed_seconds(max((account.accepted for account in accounts), default=0))
        taken = (last_ns - first_ns) / 1e9
        return {
            "calls": calls,
            "accepted": calls - self.refused,
            "refused": self.refused,
            "malformed": self.malformed,
            "refused_by": dict(self.refused_by),
            "worst_early_us": self.worst_early_ns // 1000,
            "accounts": len(self.accounts),
            "account_calls_max": max((account.calls for account in accounts), default=0),
            # Most arrivals of one account in any window, refused ones too: at most the limit's amount.
            "window_max": dict(zip(self.texts, self.window_max)),
            "gap_min_us": None if self.gap_min_ns is None else self.gap_min_ns // 1000,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "needed": needed,
            "taken": taken,
            "share": needed / taken if taken > 0 else None,
        }


class Connection(asyncio.Protocol):
    """Just enough HTTP/1.1: keep-alive, one request after the other, request bodies with a length (ignored)."""

    def __init__(self, server: "Server"):
        self.server = server
        self.transport = None
        self.buffer = b""
        # Bytes of a request's body that are still to come.
        self.skip = 0
        self.is_closing = False

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, _error):
        self.is_closing = True

    def data_received(self, data):
        at_ns = time.monotonic_ns()
        self.buffer += data
        while not self.is_closing:
            if self.skip:
                cut = min(self.skip, len(self.buffer))
                self.buffer = self.buffer[cut:]
                self.skip -= cut
            end = self.buffer.find(b"\r\n\r\n")
            if self.skip or end < 0:
                break
            head = self.buffer[:end]
            self.buffer = self.buffer[end + 4 :]
            self.skip = int(header(head, b"content-length") or 0)
            self.server.came(self, head, at_ns)
        if len(self.buffer) > HEAD_BYTES_MAX:
            self.transport.abort()

    def answer(self, status: bytes, body: bytes, latency: float, more: bytes = b""):
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
        data = head % (status, len(body), more) + body
        if latency > 0:
            self.server.loop.call_later(latency, self._write, data)
        else:
            self._write(data)

    def _write(self, data: bytes):
        if not self.is_closing:
            self.transport.write(data)


class Server:
    def __init__(self, judge: Judge, latency: float, body_bytes: int):
        self.loop = asyncio.get_running_loop()
        self.judge = judge
        self.latency = latency
        self.body_bytes = body_bytes
        self.waiting = collections.deque()

    def came(self, connection: Connection, head: bytes, at_ns: int):
        """A head was read. It is judged a little later, so that all that came with it are stamped first."""
        if not self.waiting:
            self.loop.call_soon(self.judge_some)
        self.waiting.append((connection, head, at_ns))

    def judge_some(self):
        for _ in range(min(JUDGED_PER_TURN, len(self.waiting))):
            self.judge_one(*self.waiting.popleft())
        if self.waiting:
            self.loop.call_soon(self.judge_some)

    def judge_one(self, connection: Connection, head: bytes, at_ns: int):
        words = head.split(b"\r\n", 1)[0].split(b" ")
        path_query = words[1].decode("utf-8", "replace") if len(words) == 3 else ""
        if path_query == "/__score":
            connection.answer(b"200 OK", json.dumps(self.judge.score()).encode(), 0.0)
            return
        account = header(head, b"x-account")
        if not path_query or not account:
            self.judge.malformed += 1
            connection.answer(b"400 Bad Request", b'{"error":"account_missing"}', 0.0)
            return
        account = account.decode("utf-8", "replace")
        if self.judge.arrive(account, path_query, at_ns):
            pages = re.search(r"[?&]of=([0-9]+)", path_query)
            if pages:
                body = page_body(account, path_query, self.body_bytes, int(pages[1]))
            else:
                body = judge_body(account, path_query, self.body_bytes)
            connection.answer(b"200 OK", body, self.latency)
        else:
            refusal = b'{"error":"rate_limited"}'
            connection.answer(b"429 Too Many Requests", refusal, 0.0, b"Retry-After: 1\r\n")


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header; `name` in lower case."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


async def serve(args):
    with open(args.log, "w", buffering=1 << 20) if args.log else open("/dev/null", "w") as log:
        judge = Judge(args.limit, log if args.log else None)
        loop = asyncio.get_running_loop()
        server = Server(judge, args.latency, args.body_bytes)
        listening = await loop.create_server(
            lambda: Connection(server), "127.0.0.1", args.port, backlog=4096
        )
        port = listening.sockets[0].getsockname()[1]
        print(json.dumps({"listening": f"127.0.0.1:{port}", "limits": args.limit}), flush=True)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
        listening.close()
        # What has arrived before the signal belongs into the score.
        while server.waiting:
            await asyncio.sleep(0)
    print(json.dumps(judge.score()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    parser.add_argument("--limit", action="append", required=True, help='such as "2 per 1 second"')
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before the answer's head")
    parser.add_argument("--body-bytes", type=int, default=256, help="length of an answer's body")
    parser.add_argument("--log", help="file for one JSON line per call")
    args = parser.parse_args()

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A collection stops everything for milliseconds and so makes stamps late; a run is short.
    gc.disable()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(args))
    else:
        uvloop.run(serve(args))


if __name__ == "__main__":
    main()
