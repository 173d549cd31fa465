"""Measures how late calls go while `tollgate stage` works beside them, and while it does not, in turns: how much longer
than its limit an account waits from one call to the next, as the judge sees them arrive. Not part of bin/test.

    pip install -r requirements.txt
    cargo build --release --features stage
    while_staging.py --tollgate target/release/tollgate --place /dev/shm/staging --accounts 400
"""

import argparse
import collections
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading

from run_judged import Limit, run
from stage_speed import TABLES, make_lines


class Staging:
    """Stages the same lines again and again until it is stopped."""

    def __init__(self, tollgate: pathlib.Path, place: pathlib.Path, config: pathlib.Path):
        self.command = [tollgate, "--config", config, "stage", "lines"]
        self.place = place
        self.ends = threading.Event()
        self.process = None
        self.whole = 0
        self.thread = threading.Thread(target=self.work)

    def work(self):
        while not self.ends.is_set():
            for left in ("out", "data"):
                shutil.rmtree(self.place / left, ignore_errors=True)
            self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self.process.wait() == 0:
                self.whole += 1
            elif not self.ends.is_set():
                raise SystemExit("stage has failed")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        while self.thread.is_alive():
            self.process.kill()
            self.thread.join(0.1)


def lateness_ms(log: pathlib.Path, seconds: int) -> list[float]:
    times = collections.defaultdict(list)
    for line in log.read_text().splitlines():
        call = json.loads(line)
        times[call["account"]].append(call["at_ns"])
    late = []
    for at in times.values():
        at.sort()
        late += [(after - before) / 1e6 - seconds * 1000 for before, after in zip(at, at[1:])]
    return sorted(late)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tollgate", type=pathlib.Path, required=True)
    parser.add_argument("--place", type=pathlib.Path, required=True)
    parser.add_argument("--accounts", type=int, default=400)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--lines-gb", type=float, default=1)
    parser.add_argument("--times", type=int, default=3)
    own = parser.parse_args()
    own.place.mkdir(parents=True)
    tollgate = own.tollgate.resolve()
    limit = Limit("1 per 1 s")
    args = argparse.Namespace(
        accounts=own.accounts, calls=own.calls, limit=[limit], judge="limits", latency=0.0, delay=0.0, seed=1,
        body_bytes=None, guard=None, due_in=0.0, tollgate=tollgate,
    )
    p99 = {"alone": [], "staging": []}
    refused = staged = 0
    try:
        rows, _ = make_lines(own.place / "lines", own.lines_gb * 1e9)
        config = own.place / "tollgate.toml"
        config.write_text(f'[node]\ndata = "{own.place}/data"\n[store]\nurl = "file:{own.place}"\n{TABLES}')
        for _ in range(own.times):
            for way in p99:
                with tempfile.TemporaryDirectory(prefix="judged-") as folder:
                    folder = pathlib.Path(folder)
                    if way == "alone":
                        told = run(args, folder)
                    else:
                        with Staging(tollgate, own.place, config) as staging:
                            told = run(args, folder)
                        staged += staging.whole
                    late = lateness_ms(folder / "calls.jsonl", limit.seconds)
                at = {share: late[int(len(late) * share)] for share in (0.5, 0.9, 0.99, 0.999)}
                p99[way].append(at[0.99])
                refused += told["refused"]
                figures = "  ".join(f"p{share * 100:g} {ms:.2f}" for share, ms in at.items())
                print(f"{way:8} {told['taken']:.2f} s  refused {told['refused']}  ms later than allowed: {figures}", flush=True)
    finally:
        shutil.rmtree(own.place, ignore_errors=True)
    medians = {way: statistics.median(values) for way, values in p99.items()}
    print(f"p99, medians: {medians['alone']:.2f} ms alone, {medians['staging']:.2f} ms beside staging; "
          f"{staged} times {rows:,} rows staged; refused {refused}")
    sys.exit(0 if refused == 0 else 1)


if __name__ == "__main__":
    main()
