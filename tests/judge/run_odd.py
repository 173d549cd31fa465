"""Publishes what other people's programs will publish: odd spellings, protobuf, priorities, and what is no fetch.

One account spelled in three ways must be one account to the ledger and to the judge. What cannot be understood must
end as a dead letter with a code and stop nothing. All of it is published once before the node starts and once while it
runs. The last line is one JSON object; exit 1 when something does not hold.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import time
import urllib.parse

from backlog import Backlog, Outcome, token
from run_judged import Limit, platform
from run_served import add_servers, run_in_folder, verified
from running import Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path

LIMIT = Limit("1 per 1 s")
# Patience for one round; its longest account needs 6 s.
ROUND_WITHIN = 60.0
# How far off the fetch is that waits for its time, and how much clocks may differ within one machine. In seconds.
SOON = 3.0
CLOCKS = 0.005
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@dataclasses.dataclass
class Odd:
    """A message, and what must become of it: "done", "dead" or "later"."""

    what: str
    subject: str
    payload: bytes
    ends: str
    headers: dict | None = None
    # Whom it must be called for, and its `n`.
    account: str = ""
    n: str = ""
    # Its id, where it says one.
    id: str | None = None
    not_before: float | None = None
    # NATS tells nobody of a message whose subject has too few tokens; it is found at start, or each minute.
    is_found_late: bool = False
    seq: int = 0


class Odds:
    """All messages of a round; `name` keeps those of the two rounds apart."""

    def __init__(self, name: str):
        self.name = name
        self.all = []

    def good(self, what: str, tail: str, whom: str, form=json.dumps, headers=None, ends="done", **fields):
        """A fetch under the subject's tail, of an account as it must come out."""
        n = f"{self.name}{len(self.all)}"
        fetch = {"id": f"odd-{n}", "params": {"n": n}, **fields}
        fetch = {name: value for name, value in fetch.items() if value is not None}
        payload = form(fetch)
        payload = payload.encode() if isinstance(payload, str) else payload
        odd = Odd(what, f"tollgate.fetch.{tail}", payload, ends, headers, whom, n, fetch.get("id"))
        self.all.append(odd)
        return odd

    def bad(self, what: str, tail: str = "judge.a%40b.report", payload=None, headers=None, is_found_late=False):
        payload = json.dumps({"params": {"n": "never"}}) if payload is None else payload
        payload = payload.encode() if isinstance(payload, str) else payload
        self.all.append(
            Odd(what, f"tollgate.fetch.{tail}", payload, "dead", headers, is_found_late=is_found_late)
        )

    def fill(self):
        # First in its account's lane, so that the others of a@b are behind it.
        self.bad("JSON cut off", payload='{"params":{"n":')
        for spelling in ("a%40b", "a@b", "%61@b"):
            self.good(f"the account a@b as {spelling}", f"judge.{spelling}.report", "a@b")
            self.good(f"{spelling}, told twice", f"judge.{spelling}.report", "a@b", account="a@b")
            self.bad(f"{spelling} with another account in it", f"judge.{spelling}.report", '{"account":"a%40b","params":{"n":"1"}}')
        for spelling in ("c%2Ed", "c%2ed"):
            self.good(f"the account c.d as {spelling}", f"judge.{spelling}.report", "c.d")
        self.good("every field but the id", "judge.e.report", "e", id=None, platform="judge", account="e", api="report")
        self.good("an account beyond ASCII", f"judge.{token('광고/1')}.report", "광고/1")
        self.good("JSON, and says so", "judge.e.report", "e", headers={"Content-Type": "application/json"})
        self.good("protobuf", "judge.f.report", "f", protobuf, PROTOBUF)
        self.good("protobuf, account spelled oddly", "judge.%66.report", "f", protobuf, PROTOBUF)
        self.good("low, published first", "judge.prio.report.low", "prio")
        self.good("normal", "judge.prio.report", "prio")
        self.good("high, published last", "judge.prio.report.high", "prio")
        soon = time.time() + SOON
        self.good("not before", "judge.soon.report", "soon", not_before=rfc3339(soon)).not_before = soon
        self.good("not before tomorrow", "judge.far.report", "far", ends="later", not_before=rfc3339(soon + 86_400))
        self.good("behind the one for tomorrow", "judge.far.report", "far")

        self.bad("no JSON object", payload='["n"]')
        self.bad("nothing at all", payload="")
        self.bad("no UTF-8", payload=b'{"params":{"n":"\xff"}}')
        self.bad("another content type", payload="n\n1\n", headers={"Content-Type": "text/csv"})
        self.bad("JSON under another content type", headers={"Content-Type": "text/csv"})
        self.bad("JSON that says it is protobuf", headers=PROTOBUF)
        self.bad("protobuf that says it is JSON", payload=protobuf({"params": {"n": "1"}}))
        self.bad("a parameter is missing", payload='{"params":{}}')
        self.bad("another platform in it", payload='{"platform":"other","params":{"n":"1"}}')
        self.bad("another api in it", payload='{"api":"other","params":{"n":"1"}}')
        self.bad("an id of 129 bytes", payload=json.dumps({"id": "x" * 129, "params": {"n": "1"}}))
        self.bad("more than 256 KiB", payload=json.dumps({"params": {"n": "x" * 300_000}}))
        self.bad("deadline long ago", payload='{"deadline":"2020-01-01T00:00:00Z","params":{"n":"1"}}')
        self.bad("a time that is none", payload='{"not_before":"tomorrow","params":{"n":"1"}}')
        self.bad("an unknown platform", "nosuch.a.report")
        self.bad("an unknown api", "judge.a%40b.nosuch")
        self.bad("a platform that is no slug", "JUDGE.a.report")
        self.bad("an api that is no slug", "judge.a.Re%70ort")
        self.bad("an account that is cut off", "judge.a%4.report")
        self.bad("an account that is no hex", "judge.a%zz.report")
        self.bad("an account that is no UTF-8", "judge.a%FF.report")
        self.bad("an account of 300 bytes", f"judge.{'x' * 300}.report")
        self.bad("an unknown priority", "judge.a.report.urgent")
        self.bad("too many tokens", "judge.a.report.high.more")
        self.bad("too few tokens", "judge.a", is_found_late=True)
        self.bad("one token", "judge", is_found_late=True)
        return self


def rfc3339(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def protobuf(fetch: dict) -> bytes:
    """A tollgate.v1.Fetch by hand: `id` is field 1, `params` 5, and the text of a Value 6
    (https://protobuf.dev/programming-guides/encoding/).
    """

    def text(field: int, value: bytes) -> bytes:
        size, left = b"", len(value)
        while left > 127:
            size += bytes([left & 127 | 128])
            left >>= 7
        return bytes([field << 3 | 2]) + size + bytes([left]) + value

    told = text(1, fetch["id"].encode()) if "id" in fetch else b""
    for name, value in fetch["params"].items():
        told += text(5, text(1, name.encode()) + text(2, text(6, value.encode())))
    return told


async def publish(backlog: Backlog, odds: list[Odd]) -> list[str]:
    """Publishes in order; mistakes of what NATS answers."""
    wrong = []
    for odd in odds:
        headers = dict(odd.headers or {})
        if odd.id:
            headers["Nats-Msg-Id"] = f"judge.{token(odd.account)}.report:{odd.id}"
        odd.seq = (await backlog.jetstream.publish(odd.subject, odd.payload, headers=headers)).seq
    twice = next(odd for odd in odds if odd.id)
    headers = {"Nats-Msg-Id": f"judge.{token(twice.account)}.report:{twice.id}"}
    if not (await backlog.jetstream.publish(twice.subject, twice.payload, headers=headers)).duplicate:
        wrong.append("the same message id a second time was not taken for a duplicate")
    return wrong


async def ended(backlog: Backlog, odds: list[Odd], node: Node):
    """Returns when nothing but what is for later is left."""
    later = sum(odd.ends == "later" for odd in odds)
    give_up_at = time.monotonic() + ROUND_WITHIN
    while True:
        node.must_live()
        done, dead, left, kept = [await backlog.messages(name) for name in ("DONE", "DEAD", "FETCH", "LATER")]
        if left == 0 and done + dead >= len(odds) - later:
            return
        if time.monotonic() > give_up_at:
            left = [subject for subject in await backlog.subjects("FETCH")]
            raise Failure(f"after {ROUND_WITHIN:.0f} s: {done} done, {dead} dead, {kept} for later, left {left}")
        await asyncio.sleep(0.1)


def wrong_ends(odds: list[Odd], outcome: Outcome, calls: list[dict]) -> list[str]:
    """What did not become of each message what must."""
    wrong = []
    at_of = collections.defaultdict(list)
    for call in calls:
        at_of[call["account"], call["request"]].append(call["at_ns"] / 1e9)
    for odd in odds:
        done, dead = outcome.done.get(odd.seq, []), outcome.dead.get(odd.seq, [])
        at = at_of[odd.account, f"/report?n={odd.n}"] if odd.n else []
        is_so = {
            "done": (len(done), len(dead), len(at)) == (1, 0, 1),
            "dead": (len(done), len(dead), len(at)) == (0, 1, 0),
            "later": (len(done), len(dead), len(at)) == (0, 0, 0),
        }[odd.ends]
        if not is_so:
            told = [letter.get("code") for letter in dead]
            wrong.append(f"{odd.what}: must be {odd.ends}; done {len(done)}, dead {told}, calls {len(at)}")
        for letter in dead:
            if not re.fullmatch(r"TG\d{4}", letter.get("code", "")) or not letter.get("reason"):
                wrong.append(f"{odd.what}: its dead letter has no code or no reason: {letter}")
        if odd.not_before and at and at[0] + time.time() - time.monotonic() < odd.not_before - CLOCKS:
            wrong.append(f"{odd.what}: was called before its time")
    known = {odd.seq for odd in odds}
    for seq in (outcome.done.keys() | outcome.dead.keys()) - known:
        wrong.append(f"{seq}: nobody published it")
    return wrong


def wrong_order(odds: list[Odd], calls: list[dict]) -> list[str]:
    """High before normal before low, in what waited when the node started."""
    n_of = {f"/report?n={odd.n}": odd.what.split(",")[0] for odd in odds if odd.account == "prio"}
    seen = [n_of[call["request"]] for call in calls if call["request"] in n_of]
    return [] if seen == ["high", "normal", "low"] else [f"priorities went in the order {seen}"]


async def wrong_ledger(backlog: Backlog, called: set[str]) -> list[str]:
    """Every account that was called has one ledger subject, and that is spelled as it must be."""
    tokens = collections.defaultdict(list)
    for subject in await backlog.subjects("LEDGER"):
        last = subject.split(".")[-1]
        # With a `=` in front it is a budget's.
        if not last.startswith("="):
            tokens[urllib.parse.unquote(last)].append(last)
    wrong = []
    for account in called:
        if tokens[account] != [token(account)]:
            wrong.append(f"the ledger's subjects of {account}: {tokens[account]}")
    return wrong


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    nats_server = NatsServer(folder, nats_server_path(args.nats_server))
    servers.append(nats_server)
    nats_server.start().wait_listening()
    data, log = folder / "objects", folder / "calls.jsonl"
    data.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        port = free_port()
        judge = Running("judge_limits.py", "--port", port, "--limit", LIMIT.for_limits(), "--log", log)
        stack.enter_context(judge)
        settings = f"[nats]\nurl = {json.dumps(nats_server.url)}\n[store]\nurl = {json.dumps(f'file:{data}')}\n"
        node = Node("node-0", folder, args.tollgate, settings + platform(args, port), log_level=args.log_level)
        servers.append(node)
        node.command_output("setup")
        backlog = await stack.enter_async_context(Backlog(nats_server.url))

        before = Odds("before").fill().all
        wrong = await publish(backlog, before)
        node.start()
        await asyncio.to_thread(node.wait_ready)
        await ended(backlog, before, node)
        while_running = [odd for odd in Odds("live").fill().all if not odd.is_found_late]
        wrong += await publish(backlog, while_running)
        odds = before + while_running
        await ended(backlog, odds, node)

        later = await backlog.messages("LATER")
        exit_code = await asyncio.to_thread(node.stop, DRAINED_WITHIN)
        outcome = Outcome(await backlog.read("DONE"), await backlog.read("DEAD"))
        called = {odd.account for odd in odds if odd.ends == "done"}
        wrong += await wrong_ledger(backlog, called)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    wrong += wrong_ends(odds, outcome, calls)
    wrong += wrong_order(before, calls)
    if later != 2:
        wrong.append(f"LATER holds {later} of 2 fetches for tomorrow")
    if exit_code != 0:
        wrong.append(f"the drained node's exit was {exit_code}")
    if judge.score["refused"]:
        wrong.append(f"the judge refused {judge.score['refused']} calls")
    if {call["account"] for call in calls} != called:
        wrong.append(f"accounts at the judge: {sorted({call['account'] for call in calls})}")

    # The objects, as for every run; an id that was left out is the one that DONE names.
    fetches = folder / "fetches.jsonl"
    expected = {}
    for odd in odds:
        if odd.ends == "done" and odd.seq in outcome.done:
            name = odd.id or outcome.done[odd.seq][0]["id"]
            expected[odd.seq] = {"id": name, "platform": "judge", "account": odd.account, "api": "report", "params": {"n": odd.n}}
    fetches.write_text("".join(json.dumps(fetch) + "\n" for fetch in expected.values()))
    verification = verified(args, data, fetches, log)
    events = outcome.wrong(expected, data)
    # Looked at above, one by one.
    events.pop("dead", None)
    for kind, what in {**verification.mistakes, **events}.items():
        wrong.append(f"{kind}: {what}")
    codes = {odd.what: outcome.dead[odd.seq][0].get("code") for odd in odds if odd.seq in outcome.dead}
    return {
        "good": not wrong,
        "mistakes": wrong,
        "published": len(odds),
        "done": len(outcome.done),
        "dead": len(outcome.dead),
        "later": later,
        "calls": judge.score["calls"],
        "refused": judge.score["refused"],
        "codes": codes,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_servers(parser)
    args = parser.parse_args()
    args.judge, args.limit, args.guard, args.body_bytes = "limits", [LIMIT], None, None
    run_in_folder(args, run, "odd-")


if __name__ == "__main__":
    main()
