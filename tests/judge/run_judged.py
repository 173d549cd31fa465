"""Runs the real binary against one of the judges and prints what the judge counted, as one JSON object.

All fetches are due at once: as they are read, or with --due-in at one moment later, for which all of them must have been
read by then. Exit 0 only if nothing was refused, every fetch ended well, and every stored object
has the bytes that the judge answered.

    run_judged.py --accounts 1000 --calls 10 --limit "1 per 1 s"
    run_judged.py --accounts 200 --calls 30 --limit "2 per 1 s" --limit "10 per 10 s" --latency 0.3
    run_judged.py --accounts 1000 --calls 10 --limit "1 per 1 s" --judge nginx
    run_judged.py --accounts 1000 --calls 60 --due-in 5
    run_judged.py --accounts 100 --calls 1600 --limit "1 per 1 s" --delay 0.05
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from running import HERE, Running, free_port

UNITS = {"s": 1, "min": 60, "h": 3600}
REQUEST = "/report?n={n}"


class Limit:
    """So many calls in any window of so many seconds, written as "10 per 1 s"."""

    def __init__(self, text: str):
        match = re.fullmatch(r"([1-9]\d*) per ([1-9]\d*) ?([a-z]+)", text)
        if not match or match[3] not in UNITS:
            raise argparse.ArgumentTypeError(f'"{text}" is not like "10 per 1 s"')
        self.max = int(match[1])
        self.seconds = int(match[2]) * UNITS[match[3]]

    def for_limits(self) -> str:
        return f"{self.max} per {self.seconds} second"

    def for_nginx(self) -> str:
        for unit, seconds in (("s", 1), ("m", 60)):
            if (self.max * seconds) % self.seconds == 0:
                return f"{self.max * seconds // self.seconds}r/{unit}"
        raise SystemExit(f"nginx knows whole calls per second or minute, not {self.for_limits()}")

    def for_tollgate(self, judge: str) -> str:
        if judge == "limits":
            return f'{{ per = ["account"], max = {self.max}, in = "{self.seconds}s" }}'
        # Without a burst, nginx asks for a distance between calls.
        gap_ms = -(-self.seconds * 1000 // self.max)
        return f'{{ per = ["account"], every = "{gap_ms}ms" }}'


def judge_command(args, port: int, log: pathlib.Path) -> list:
    if args.judge == "nginx":
        if len(args.limit) != 1 or args.latency or args.body_bytes is not None:
            raise SystemExit("nginx takes one --limit, no --latency and no --body-bytes")
        return ["nginx.py", "--port", port, "--rate", args.limit[0].for_nginx()]
    command = ["judge_limits.py", "--port", port, "--latency", args.latency, "--log", log]
    for limit in args.limit:
        command += ["--limit", limit.for_limits()]
    return command + ["--body-bytes", body_bytes(args)]


def body_bytes(args) -> int:
    return 256 if args.body_bytes is None else args.body_bytes


def config(args, port: int, folder: pathlib.Path) -> str:
    return f"[node]\ndata = {json.dumps(str(folder / 'data'))}\n{platform(args, port)}"


def platform(args, port: int) -> str:
    """The judge as a platform; its fetches are those of fetches.py."""
    limits = [f"limit{i} = {limit.for_tollgate(args.judge)}" for i, limit in enumerate(args.limit)]
    return "\n".join(
        [
            "[platforms.judge]",
            f'base_url = "http://127.0.0.1:{port}/"',
            'headers = { X-Account = "{account}" }',
            *([f"guard = {json.dumps(args.guard)}"] if args.guard else []),
            "[platforms.judge.limits]",
            *limits,
            "[platforms.judge.apis.report]",
            'path = "report"',
            'query = { n = "{n}" }',
            "",
        ]
    )


def run(args, folder: pathlib.Path) -> dict:
    fetches, settings, calls = folder / "fetches.jsonl", folder / "tollgate.toml", folder / "calls.jsonl"
    with fetches.open("w") as file:
        command = ["fetches.py", "--accounts", args.accounts, "--fetches", args.calls]
        command += ["--due-in", args.due_in]
        subprocess.run([sys.executable, *map(str, command)], cwd=HERE, stdout=file, check=True)
    port = free_port()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        judge = stack.enter_context(Running(*judge_command(args, port, calls)))
        network = None
        if args.delay:
            command = ["delay.py", "--to", port, "--delay", args.delay, "--seed", args.seed]
            network = stack.enter_context(Running(*command))
            port = network.address[1]
        settings.write_text(config(args, port, folder))
        command = [args.tollgate, "--config", settings, "--log-level", "warn", "run", fetches, "--json"]
        tollgate = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - started
    command = ["verify.py", folder / "data", fetches, "--request", REQUEST, "--judge", args.judge]
    command += ["--body-bytes", body_bytes(args)]
    verified = subprocess.run(
        [sys.executable, *map(str, command)], cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    score = judge.score
    lines = tollgate.stdout.splitlines()
    is_good = (
        tollgate.returncode == 0
        and verified.returncode == 0
        and score["refused"] == 0
        and score["calls"] == args.accounts * args.calls
    )
    return {
        "good": is_good,
        "judge": args.judge,
        "limits": [limit.for_limits() for limit in args.limit],
        "latency": args.latency,
        "delay": args.delay,
        "network": network.score if network else None,
        "guard": args.guard or "default",
        "refused": score["refused"],
        "share": score["share"],
        "needed": score["needed"],
        "taken": score["taken"],
        "seconds": round(seconds, 3),
        "exit": tollgate.returncode,
        "wrong_objects": json.loads(verified.stdout)["wrong"] if verified.stdout else None,
        "score": score,
        "summary": json.loads(lines[-1]) if lines else None,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--calls", type=int, default=5, help="per account")
    parser.add_argument("--due-in", type=float, default=0, help="seconds from the writing of the fetches until all are due, at one moment")
    parser.add_argument("--limit", type=Limit, action="append", help='"1 per 1 s", the default; several with `limits`')
    parser.add_argument("--judge", choices=["limits", "nginx"], default="limits")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before an answer's head")
    parser.add_argument("--delay", type=float, default=0.0, help="most seconds that bytes wait on their way, each way")
    parser.add_argument("--seed", type=int, default=1, help="of the delays")
    parser.add_argument("--body-bytes", type=int, help="length of an answer's body; 256 if not given")
    parser.add_argument("--guard", help='such as "100ms" or "never"; the default if not given')
    parser.add_argument("--tollgate", type=pathlib.Path, default=HERE.parent.parent / "target/release/tollgate")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for data, config and the judge's log")
    args = parser.parse_args()
    args.limit = args.limit or [Limit("1 per 1 s")]
    if not os.access(args.tollgate, os.X_OK):
        raise SystemExit(f"{args.tollgate} is not there: cargo build --release, or name it by --tollgate")
    args.tollgate = args.tollgate.resolve()
    if args.keep:
        args.keep.mkdir(parents=True)
        result = run(args, args.keep.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="judged-") as name:
            result = run(args, pathlib.Path(name))
    print(json.dumps(result))
    sys.exit(0 if result["good"] else 1)


if __name__ == "__main__":
    main()
