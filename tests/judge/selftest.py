"""Proves the judges: breaks limits on purpose and shows that exactly those calls are refused.

Only the standard library makes the calls. `--nginx PATH` tries nginx.py too. Ends with "all good" and exit 0, or with
the first claim that does not hold.
"""

import argparse
import datetime
import hashlib
import http.client
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types

import zstandard

from backlog import Outcome, fetch_subject, token
from bodies import judge_body, nginx_body
from metrics import latencies
from run_cluster import Ends, partition
from run_judged import Limit
from run_served import needed_seconds
from running import HERE, Running, free_port

def call(connection, account, request="/report?n=1"):
    connection.request("GET", request, headers={"X-Account": account})
    answer = connection.getresponse()
    return answer.status, answer.read()


def claim(what: str, is_so: bool):
    print(("ok    " if is_so else "WRONG ") + what, flush=True)
    if not is_so:
        sys.exit(1)


def limits_refuse_what_breaks_them(folder):
    log = folder / "calls.jsonl"
    command = ["judge_limits.py", "--limit", "2 per 1 second", "--limit", "5 per 4 second"]
    with Running(*command, "--log", log, "--body-bytes", "100") as judge:
        connection = http.client.HTTPConnection(*judge.address)
        start = time.monotonic()

        def statuses(count, at=0.0):
            time.sleep(max(0.0, start + at - time.monotonic()))
            return [call(connection, "a")[0] for _ in range(count)]

        claim("two calls in a second pass, the third does not", statuses(3) == [200, 200, 429])
        claim("a second later two more pass", statuses(3, 1.05) == [200, 200, 429])
        claim("the wider limit lets one more through", statuses(2, 2.15) == [200, 429])
        claim("nothing before its window has passed", statuses(1, 3.5) == [429])
        # Had the refused calls counted anywhere, these would not pass.
        claim("then as many as left the window", statuses(3, 4.05) == [200, 200, 429])
        claim("another account is counted apart", call(connection, "b")[0] == 200)
        body = call(connection, "c/d", "/x?y=%20")[1]
        claim("the body is the documented one", body == judge_body("c/d", "/x?y=%20", 100))
        claim("it is JSON of the length asked for", len(body) == 100 and json.loads(body))
        connection.request("GET", "/report")
        answer = connection.getresponse()
        claim("a call without account is none", (answer.status, bool(answer.read())) == (400, True))
        connection.request("GET", "/__score")
        score = json.loads(connection.getresponse().read())
        claim("the score can be asked for", score["calls"] == 14)
    score = judge.score
    claim("the end's score is the same", (score["accepted"], score["refused"]) == (9, 5))
    claim("each refusal is named", sum(score["refused_by"].values()) >= 5)
    claim("all arrivals were counted without `limits`, too", score["window_max"]["2 per 1 second"] == 4)
    claim("the least time for 7 calls is 4 s", score["needed"] == 4.0)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    claim("the log has every call", [c["accepted"] for c in calls].count(True) == 9)
    early = [c["at_ns"] for c in calls if c["account"] == "a" and c["accepted"]]
    windows = [late - first for first, late in zip(early, early[2:])]
    claim("no three accepted calls lie within a second", min(windows) >= 1_000_000_000)


def limits_survives_a_crowd():
    with Running("judge_limits.py", "--limit", "1000000 per 1 hour") as judge:
        crowd = [socket.create_connection(judge.address) for _ in range(1000)]
        started = time.monotonic()
        rounds = 10
        for n in range(rounds):
            for i, one in enumerate(crowd):
                one.sendall(f"GET /r?n={n} HTTP/1.1\r\nHost: x\r\nX-Account: a{i}\r\n\r\n".encode())
            for one in crowd:
                answer = b""
                while not answer.endswith(b'"'):
                    answer += one.recv(4096)
        seconds = time.monotonic() - started
    claim("1,000 connections were served", judge.score["accepted"] == 1000 * rounds)
    rate = 1000 * rounds / seconds
    claim(f"{rate:,.0f} calls a second, its client in Python included", rate > 5_000)


def latency_delays_answers_and_not_stamps():
    with Running("judge_limits.py", "--limit", "1 per 1 second", "--latency", "0.3") as judge:
        started = time.monotonic()
        first = threading.Thread(target=lambda: call(http.client.HTTPConnection(*judge.address), "a"))
        first.start()
        time.sleep(0.1)
        status = call(http.client.HTTPConnection(*judge.address), "a")[0]
        claim("a call while the first is unanswered is refused at once", status == 429)
        claim("before the latency", time.monotonic() - started < 0.3)
        first.join()
        claim("the first had to wait for it", time.monotonic() - started >= 0.3)


def nginx_refuses_what_breaks_it(path):
    port = free_port()
    with Running("nginx.py", "--port", port, "--nginx", path, "--rate", "2r/s") as judge:
        connection = http.client.HTTPConnection(*judge.address)
        claim("nginx: the first passes", call(connection, "a")[0] == 200)
        claim("nginx: the second does not", call(connection, "a")[0] == 429)
        status, body = call(connection, "b", "/x?y=1")
        claim("nginx: another account does", status == 200)
        claim("nginx: with the documented body", body == nginx_body("b", "/x?y=1"))
        time.sleep(0.52)
        claim("nginx: and the first again", call(connection, "a")[0] == 200)
    score = judge.score
    claim("nginx: the log agrees", (score["calls"], score["refused"], score["others"]) == (4, 1, 0))
    claim("nginx: two calls need half a second", score["needed"] == 0.5 and score["share"] <= 1.0)


def fetches_are_due_at_one_moment():
    command = ["fetches.py", "--accounts", "2", "--fetches", "3", "--due-in", "60"]
    lines = subprocess.check_output([sys.executable, *command], cwd=HERE, text=True).splitlines()
    moments = {json.loads(line)["not_before"] for line in lines}
    due_at = datetime.datetime.fromisoformat(min(moments))
    seconds = (due_at - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    claim("all fetches are due at one moment", len(lines) == 6 and len(moments) == 1 and 0 < seconds <= 60)


def verify_finds_every_mistake(folder):
    command = ["fetches.py", "--accounts", "3", "--fetches", "2"]
    lines = subprocess.check_output([sys.executable, *command], cwd=HERE, text=True)
    fetches = folder / "fetches.jsonl"
    fetches.write_text(lines)
    data = folder / "data"

    def store(fetch, place, damage=b""):
        body = judge_body(fetch["account"], f"/report?n={fetch['params']['n']}", 256) + damage
        stored = zstandard.compress(body)
        key = f"{place}/{fetch['id']}/0.json.zst"
        path = data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored)
        sha256 = hashlib.sha256(body).hexdigest()
        entry = {"key": key, "bytes": len(body), "sha256": sha256, "stored_bytes": len(stored)}
        manifest = {name: fetch[name] for name in ("platform", "account", "api", "id")}
        (path.parent / "_manifest.json").write_text(json.dumps({**manifest, "objects": [entry]}))
        return path

    def verified():
        done = subprocess.run(
            [sys.executable, "verify.py", data, fetches], cwd=HERE, capture_output=True, text=True
        )
        return done.returncode, json.loads(done.stdout)["wrong"]

    all_fetches = [json.loads(line) for line in lines.splitlines()]
    paths = [store(fetch, "day1") for fetch in all_fetches]
    (data / "state").mkdir()
    (data / "state" / "queue").write_text("not an object")
    claim("verify: all is well", verified() == (0, {}))
    paths[0].unlink()
    store(all_fetches[1], "day1", b"x")
    store(all_fetches[2], "day2")
    paths[3].with_name("_manifest.json").unlink()
    paths[4].write_bytes(b"no zstd")
    # A cut frame decompresses to nothing, without an error.
    paths[5].write_bytes(paths[5].read_bytes()[:12])
    code, wrong = verified()
    expected = {
        "object_missing": 1,
        "other_bytes": 2,
        "duplicate": 1,
        "missing": 1,
        "without_manifest": 1,
        "unreadable": 1,
        "not_as_its_manifest_says": 1,
    }
    claim(f"verify: every mistake is found: {wrong}", (code, wrong) == (1, expected))


def outcome_finds_every_mistake(folder):
    data = folder / "objects"

    def event(seq, fetch, kind="done", **other):
        key = f"{seq}/00001.json.zst"
        told = {"id": fetch["id"], "seq": seq, "objects": [{"key": key}], **other}
        subject = fetch_subject(fetch).replace(".fetch.", f".{kind}.")
        return types.SimpleNamespace(data=json.dumps(told).encode(), subject=subject)

    def manifest(seq, named=None):
        (data / str(seq)).mkdir(parents=True)
        told = {"seq": named or seq, "objects": [{"key": f"{seq}/00001.json.zst"}]}
        (data / str(seq) / "_manifest.json").write_text(json.dumps(told))

    fetch = {"id": "x", "platform": "judge", "account": "a@b", "api": "report"}
    for seq in (1, 3, 5):
        manifest(seq)
    manifest(6, named=7)
    good = Outcome([event(1, fetch), event(3, fetch)], []).wrong({1: fetch, 3: fetch}, data)
    claim("events: all is well", good == {})
    misnamed = event(5, fetch, id="y")
    misnamed.subject = "tollgate.done.judge.a@b.report"
    done = [event(1, fetch), event(1, fetch), event(4, fetch), misnamed, event(6, fetch), event(8, fetch, objects=[])]
    dead = [event(2, fetch, "dead", code="TG0201", reason="so")]
    wrong = Outcome(done, dead).wrong({seq: fetch for seq in (1, 2, 3, 5, 6, 8)}, data)
    expected = {
        "not_done": [2, 3],
        "done_but_unknown": [4],
        "dead": [[2, "TG0201", "so"]],
        "done_twice": [1],
        "done_names_another_id": [5],
        "done_has_another_subject": [5],
        "done_and_manifest_differ": [6],
        "done_without_objects": [8],
    }
    claim(f"events: every mistake is found: {dict(wrong)}", wrong == expected)
    (data / "1/_manifest.json").unlink()
    wrong = Outcome([event(1, fetch)], []).wrong({1: fetch}, data)
    claim("events: a missing manifest is found", wrong == {"done_without_manifest": [1]})


def the_formulas_are_right():
    claim("an account becomes one token", token("a@b.c/é") == "a%40b%2Ec%2F%C3%A9")
    limits = [Limit("2 per 1 s"), Limit("10 per 10 s")]
    claim("20 calls at 2 per 1 s and 10 per 10 s need 14 s", needed_seconds(limits, 20) == 14.0)
    text = "\n".join(
        f'tollgate_ledger_seconds_bucket{{shard="{shard}",le="{le}"}} {count}'
        for shard in (0, 1)
        for le, count in (("0.001", 25), ("0.01", 49), ("+Inf", 50))
    )
    told = latencies(text, "ledger")["tollgate_ledger_seconds"]
    claim(f"percentiles from a histogram: {told}", told == {"count": 100, "p50_at_most": 1.0, "p99_at_most": None})


def fast_counts_every_call():
    with Running("fast.py") as provider:
        one = socket.create_connection(provider.address)
        request = b"GET /report?n=1 HTTP/1.1\r\nHost: x\r\n\r\n"
        # Two at once, and one in two pieces.
        one.sendall(request * 2 + request[:20])
        time.sleep(0.1)
        one.sendall(request[20:])
        time.sleep(0.1)
        answers = one.recv(65536)
    claim("fast: every request is answered", answers.count(b"HTTP/1.1 200 OK") == 3)
    claim("fast: and counted", provider.score["calls"] == 3)


def late_takeovers_are_mistakes(folder):
    """One account, called each half second; its node is killed at 10 s and its partition held at 13 s."""
    account, second = "a", 1_000_000_000
    args = types.SimpleNamespace(limit=[Limit("2 per 1 s")], kills=1, drains=0, seed=1)
    part = partition("judge", account)

    def told(kind, taken_s, next_at):
        ends = Ends(args, [])
        end = {"what": kind, "at_ns": 10 * second, "taken_s": taken_s, "parts": [part], "shared_again_s": 0.0}
        ends.happened = [{**end, "taken_ns": {part: int((10 + taken_s) * second)}}]
        log = folder / "ends.jsonl"
        at = [9.0, 9.5, next_at]
        log.write_text("".join(json.dumps({"account": account, "at_ns": int(one * second)}) + "\n" for one in at))
        told = ends.told(log)
        return told[kind], list(ends.mistakes(told))

    figures, wrong = told("kill", 3.0, 13.1)
    claim("a takeover: when it was held and called again", (figures["resumed_s"]["max"], figures["late_s"]["max"]) == (3.1, 0.1))
    claim("and is as promised", wrong == [])
    claim("one that takes 6 s is late", told("kill", 6.0, 16.1)[1] == ["taken over late (kill)"])
    claim("one that is called late is", told("kill", 3.0, 13.3)[1] == ["called late (kill)"])
    claim("a hand-over of 3 s is late", told("drain", 3.0, 13.1)[1] == ["taken over late (drain)"])
    claim("what the limits forbid makes nobody late", told("drain", 0.1, 10.1)[0]["late_s"]["max"] == 0.0)
    claim("no call is no proof", told("kill", 3.0, 9.9)[1] == ["called late (kill)"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nginx", help="the nginx binary; without it nginx.py is not tried")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        fetches_are_due_at_one_moment()
        verify_finds_every_mistake(folder)
        outcome_finds_every_mistake(folder)
        late_takeovers_are_mistakes(folder)
        limits_refuse_what_breaks_them(folder)
    the_formulas_are_right()
    fast_counts_every_call()
    latency_delays_answers_and_not_stamps()
    limits_survives_a_crowd()
    if args.nginx:
        nginx_refuses_what_breaks_it(args.nginx)
    else:
        print("nginx.py was not tried: no --nginx")
    print("all good")


if __name__ == "__main__":
    main()
