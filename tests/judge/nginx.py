"""Debian's nginx as a provider on loopback: `limit_req` without a burst, one rate per X-Account.

What `limit_req` really enforces: a leaky bucket in thousandths of a request and whole milliseconds. Without a
burst, a call is accepted when `ms since the last accepted call * rate / 1 s >= 1`: at "1r/s" that is a gap of
1,000 ms between accepted calls, at "10r/s" 100 ms. Refused calls do not count. Its clock is the monotonic one
read once per turn of the event loop and cut to milliseconds, so a gap of 999.1 ms may pass as 1,000 and one of
1,000.0 ms is never taken for less.
"""

import argparse
import collections
import json
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import threading

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    # 64 MiB hold about a million accounts; a full zone would forget the oldest.
    limit_req_zone $http_x_account zone=accounts:64m rate={rate};
    limit_req_status 429;
    limit_req_log_level info;
    log_format calls '$msec $status $http_x_account $request_uri';
    access_log {folder}/access.log calls buffer=256k flush=1s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    tcp_nodelay on;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        # `return` comes before `limit_req` in nginx's order of phases, so it stands behind a detour.
        location / {{
            limit_req zone=accounts;
            try_files /nothing-is-here @answer;
        }}
        location @answer {{
            default_type application/json;
            return 200 '{{"account":"$http_x_account","request":"$request_uri"}}\\n';
        }}
    }}
}}
"""


def summary(log: pathlib.Path, rate: str) -> dict:
    """What the access log tells. `needed` and `taken` are seconds, as in judge_limits.py."""
    accepted = collections.Counter()
    calls, refused, others, first, last = 0, 0, 0, None, None
    last_of, gap_min = {}, None
    for line in log.read_text().splitlines():
        at, status, rest = line.split(" ", 2)
        account = rest.rsplit(" ", 1)[0]
        at = float(at)
        if status not in ("200", "429"):
            others += 1
            continue
        calls += 1
        first = at if first is None else min(first, at)
        last = at if last is None else max(last, at)
        if status == "429":
            refused += 1
            continue
        accepted[account] += 1
        if account in last_of:
            gap = at - last_of[account]
            gap_min = gap if gap_min is None else min(gap_min, gap)
        last_of[account] = at
    most = max(accepted.values(), default=0)
    needed = max(most - 1, 0) * gap_seconds(rate)
    taken = last - first if calls else 0.0
    return {
        "calls": calls,
        "accepted": calls - refused,
        "refused": refused,
        "others": others,
        "accounts": len(accepted),
        "account_accepted_max": most,
        "gap_min_ms": None if gap_min is None else round(gap_min * 1000),
        # Wall time in seconds: nginx logs no other.
        "first": first,
        "last": last,
        "needed": needed,
        "taken": round(taken, 3),
        "share": needed / taken if taken > 0 else None,
    }


def gap_seconds(rate: str) -> float:
    """The gap behind "10r/s" or "30r/m"."""
    number, unit = rate.split("r/")
    return {"s": 1.0, "m": 60.0}[unit] / int(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=18081)
    parser.add_argument("--rate", default="1r/s", help="as nginx writes it: 10r/s, 30r/m")
    parser.add_argument("--nginx", default=shutil.which("nginx") or "/usr/sbin/nginx")
    parser.add_argument("--log", type=pathlib.Path, help="where the access log is kept")
    parser.add_argument("--summary", type=pathlib.Path, help="only read this access log")
    args = parser.parse_args()
    if args.summary:
        print(json.dumps(summary(args.summary, args.rate)))
        return

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="judge-nginx-") as name:
        folder = pathlib.Path(name)
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=args.port, rate=args.rate))
        # Set before the start, so that a signal in between is not lost.
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        command = [args.nginx, "-p", name, "-c", str(config), "-e", f"{name}/error.log"]
        # A group of its own: ctrl-C comes here first, and nginx ends in order.
        nginx = subprocess.Popen(command, start_new_session=True)
        print(json.dumps({"listening": f"127.0.0.1:{args.port}", "rate": args.rate}), flush=True)
        while not stop.wait(0.2) and nginx.poll() is None:
            pass
        is_dead = nginx.poll() is not None
        nginx.terminate()
        nginx.wait(timeout=10)
        if is_dead:
            raise SystemExit("nginx ended by itself:\n" + (folder / "error.log").read_text())
        log = folder / "access.log"
        print(json.dumps(summary(log, args.rate)), flush=True)
        if args.log:
            shutil.copyfile(log, args.log)


if __name__ == "__main__":
    main()
