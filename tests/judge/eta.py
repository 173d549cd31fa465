"""Asks a real node when each account will be done, and compares that with what then happens.

A provider of this script's own answers every call after a little while and notes when each account was answered last. The
accounts are of several platforms, each with limits of another kind; how much waits in them differs from account to account. Some
time after the start `tollgate status --json` is asked once; the error of an account is how far what was told is from
what was, by the time that there was left. Prints a table; the last line is one JSON object. Exit 0 only if the median error of all
accounts, and that of the whole, are below `--most`.

    eta.py                    # 110 accounts, about half a minute
    eta.py --seconds 240      # eight times the work
    eta.py --only spacing budget
"""

import argparse
import asyncio
import datetime
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# Patience for the node to answer, in seconds.
ANSWERS_WITHIN = 60.0

# By name: limits, with the second as `{s}` and twice, five and ten of it; and accounts. One account makes two calls a second
# of these in the long run.
KINDS = {
    "spacing": ('gap = { per = ["account"], every = "{half}ms" }', 25),
    "window": ('ten = { per = ["account"], max = 10, in = "{five}ms" }', 25),
    "windows": (
        'three = { per = ["account"], max = 3, in = "{one}ms" }\nlong = { per = ["account"], max = 20, in = "{ten}ms" }',
        20,
    ),
    "bucket": ('tokens = { per = ["account"], rate = "2/{one}ms", burst = 10 }', 20),
    "budget": ('app = { per = ["platform"], max = {all}, in = "{one}ms" }', 20),
}


def limits(kind: str, slow: float, accounts: int) -> str:
    """The limits of a kind, with windows so many times as long."""
    text = KINDS[kind][0].replace("{all}", str(2 * accounts))
    for name, seconds in {"half": 0.5, "one": 1, "five": 5, "ten": 10}.items():
        text = text.replace("{" + name + "}", str(round(seconds * slow * 1000)))
    return text


class Provider:
    """Answers every call with a little JSON, and notes when each account's last answer was given."""

    def __init__(self, latency: float):
        self.latency = latency
        self.last: dict[str, float] = {}
        self.calls = 0
        listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(listening)), daemon=True).start()
        listening.wait()

    async def serve(self, listening):
        server = await asyncio.start_server(self.converse, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        async with server:
            await server.serve_forever()

    async def converse(self, reader, writer):
        body = b'{"ok":true}'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                account = next(
                    line.split(b":", 1)[1].strip().decode()
                    for line in request.split(b"\r\n")
                    if line.lower().startswith(b"x-account:")
                )
                await asyncio.sleep(self.latency)
                self.calls += 1
                self.last[account] = time.time()
                writer.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def config(port: int, kinds, slow: float, accounts) -> str:
    text = '[store]\nurl = "file:./objects"\nlines = false\n[collect]\nconcurrency = 512\n'
    for kind in kinds:
        text += (
            f'[platforms.{kind}]\nbase_url = "http://127.0.0.1:{port}/"\n'
            f'headers = {{ X-Account = "{{account}}" }}\n'
            f"[platforms.{kind}.limits]\n{limits(kind, slow, accounts(kind))}\n"
            f'[platforms.{kind}.apis.report]\npath = "report/{{n}}"\n'
        )
    return text


def fetches(kinds, seconds: float, slow: float, accounts, draw: random.Random) -> tuple[str, int]:
    """Work of one to two thirds of the time up to all of it, for each account."""
    lines = []
    for kind in kinds:
        for number in range(accounts(kind)):
            count = max(4, round(seconds * 2 / slow * draw.uniform(0.5, 1.0)))
            for n in range(count):
                account = f"{kind}-{number}"
                fetch = {"platform": kind, "account": account, "api": "report", "id": str(n), "params": {"n": str(n)}}
                lines.append(json.dumps(fetch))
    draw.shuffle(lines)
    return "\n".join(lines) + "\n", len(lines)


def moment(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def status(tollgate, folder) -> dict:
    until = time.time() + ANSWERS_WITHIN
    while True:
        ran = subprocess.run(
            [tollgate, "status", "--json", "--most", "10000"], cwd=folder, capture_output=True, text=True
        )
        if ran.returncode == 0:
            return json.loads(ran.stdout)
        if time.time() > until:
            sys.exit(f"status does not answer: {ran.stderr}")
        time.sleep(0.2)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tollgate", default=str(ROOT / "target/debug/tollgate"))
    args.add_argument("--seconds", type=float, default=30.0, help="about how long the longest account takes")
    args.add_argument("--ask-after", type=float, default=0.25, help="the part of that after which it is asked")
    args.add_argument("--latency", type=float, default=0.05, help="seconds that an answer takes")
    args.add_argument("--slow", type=float, default=1.0, help="windows so many times as long, for a slow machine")
    args.add_argument("--accounts", type=int, help="of each kind, instead of 20 or 25")
    args.add_argument("--most", type=float, default=0.05, help="median error that passes")
    args.add_argument("--only", nargs="*", choices=list(KINDS), help="limits of these kinds only")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    kinds = args.only or list(KINDS)
    provider = Provider(args.latency)

    def accounts(kind):
        return args.accounts or KINDS[kind][1]

    tollgate = str(pathlib.Path(args.tollgate).absolute())
    with tempfile.TemporaryDirectory(prefix="tollgate-eta-") as folder:
        folder = pathlib.Path(folder)
        (folder / "tollgate.toml").write_text(config(provider.port, kinds, args.slow, accounts))
        text, count = fetches(kinds, args.seconds, args.slow, accounts, random.Random(args.seed))
        (folder / "fetches.jsonl").write_text(text)
        started = time.time()
        with (folder / "node.log").open("w") as log:
            node = subprocess.Popen(
                [tollgate, "run", "--json", "fetches.jsonl"], cwd=folder, stdout=subprocess.PIPE, stderr=log
            )
            time.sleep(args.seconds * args.ask_after)
            asked = time.time()
            told = status(tollgate, folder)
            answered = time.time()
            out, _ = node.communicate(timeout=args.seconds * 6 + 120)
        if node.returncode != 0:
            sys.exit(f"the run ended with {node.returncode}: {(folder / 'node.log').read_text()[-2000:]}")
        assert json.loads(out.splitlines()[-1])["done"] == count
    errors, missing = {kind: [] for kind in kinds}, 0
    for row in told["accounts"]:
        was = provider.last[row["account"]]
        if was - answered < 1.0:
            continue
        if row.get("eta") is None:
            missing += 1
        else:
            errors[row["platform"]].append((moment(row["eta"]["at"]) - was) / (was - asked))
    print(f"{'LIMITS':<10} {'ACCOUNTS':>8} {'MEDIAN':>8} {'P90':>8} {'MOST':>8} {'MEAN, SIGNED':>13}")
    for kind in kinds:
        off = sorted(abs(error) for error in errors[kind])
        if off:
            print(
                f"{kind:<10} {len(off):>8} {statistics.median(off):>8.2%} {off[int(len(off) * 0.9)]:>8.2%} "
                f"{off[-1]:>8.2%} {statistics.mean(errors[kind]):>13.2%}"
            )
    everyone = [abs(error) for kind in kinds for error in errors[kind]]
    ended = max(provider.last.values())
    whole = abs(moment(told["eta"]["at"]) - ended) / (ended - asked) if told.get("eta") else None
    median = statistics.median(everyone) if everyone else None
    summary = {
        "accounts": len(everyone),
        "without_eta": missing,
        "median_error": median,
        "error_of_the_whole": whole,
        "asked_after_s": round(asked - started, 1),
        "answer_took_s": round(answered - asked, 2),
        "took_s": round(ended - started, 1),
        "calls": provider.calls,
    }
    print(json.dumps(summary))
    passed = median is not None and whole is not None and max(median, whole) < args.most and not missing
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
