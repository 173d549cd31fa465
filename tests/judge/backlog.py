"""What NATS holds of Tollgate's, seen by nats-py: publishing fetches, counting streams, reading what became of them."""

import asyncio
import collections
import json
import time
import pathlib
import string

import nats
import nats.errors
import nats.js.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

# Publishes without an answer yet.
PENDING_MAX = 4000
# Patience for one publish to be confirmed, a killed server's restart included.
CONFIRMED_WITHIN = 60.0
# Messages asked for at once when a stream is read.
BATCH = 500
PLAIN = set((string.ascii_letters + string.digits + "_-").encode())
# Errors of a server that is away or just back.
AWAY = (nats.errors.Error, nats.js.errors.Error, asyncio.TimeoutError, OSError)


def token(account: str) -> str:
    """An account as the token of a subject: PRODUCT's rule, every byte but A-Z a-z 0-9 _ - as %XX."""
    return "".join(chr(byte) if byte in PLAIN else f"%{byte:02X}" for byte in account.encode())


def fetch_subject(fetch: dict, prefix: str = "tollgate") -> str:
    return f"{prefix}.fetch.{fetch['platform']}.{token(fetch['account'])}.{fetch['api']}"


def message_id(fetch: dict) -> str:
    return f"{fetch['platform']}.{token(fetch['account'])}.{fetch['api']}:{fetch['id']}"


class Backlog:
    """A connection for as long as an `async with` block lasts. It reconnects for ever."""

    def __init__(self, url: str, prefix: str = "tollgate"):
        self.url = url
        self.prefix = prefix
        self.streams = prefix.upper()

    async def __aenter__(self):
        async def quiet(_error):
            pass

        self.client = await nats.connect(
            self.url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            error_cb=quiet,
            # A subscription may fall far behind here without harm.
            pending_size=64 * 1024 * 1024,
        )
        self.jetstream = self.client.jetstream(timeout=5, publish_async_max_pending=PENDING_MAX)
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def publish(self, fetches) -> list[int]:
        """The sequences under which the fetches are stored, in their order; each is confirmed and new."""
        confirmations = []
        self.published_ns = {}
        for fetch in fetches:
            # When an account has work for the first time; the judge's clock is the same.
            self.published_ns.setdefault(fetch["account"], time.monotonic_ns())
            headers = {"Nats-Msg-Id": message_id(fetch)}
            payload = json.dumps(fetch, ensure_ascii=False).encode()
            confirmations.append(
                await self.jetstream.publish_async(fetch_subject(fetch, self.prefix), payload, headers=headers)
            )
        done = await asyncio.wait_for(asyncio.gather(*confirmations), CONFIRMED_WITHIN)
        twice = sum(bool(one.duplicate) for one in done)
        if twice:
            raise ValueError(f"{twice} fetches were taken for duplicates")
        return [one.seq for one in done]

    async def messages(self, *names: str) -> int | None:
        """How many messages these streams hold together; None while the server is away."""
        try:
            infos = [await self.jetstream.stream_info(f"{self.streams}_{name}") for name in names]
        except AWAY:
            return None
        return sum(info.state.messages for info in infos)

    async def subjects(self, name: str, subjects_filter: str = ">") -> dict[str, int]:
        info = await self.jetstream.stream_info(f"{self.streams}_{name}", subjects_filter=subjects_filter)
        return info.state.subjects or {}

    async def read(self, name: str) -> list:
        """Every message of a stream, oldest first."""
        stream = f"{self.streams}_{name}"
        left = (await self.jetstream.stream_info(stream)).state.messages
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            inactive_threshold=30.0,
            mem_storage=True,
        )
        subscription = await self.jetstream.pull_subscribe("", stream=stream, config=config)
        found = []
        while left > 0:
            some = await subscription.fetch(min(BATCH, left), timeout=10)
            found += some
            left -= len(some)
        await subscription.unsubscribe()
        return found


class Outcome:
    """What became of the fetches, from the streams DONE and DEAD."""

    def __init__(self, done: list, dead: list):
        self.done = collections.defaultdict(list)
        self.dead = collections.defaultdict(list)
        for messages, by_seq in ((done, self.done), (dead, self.dead)):
            for message in messages:
                told = json.loads(message.data)
                by_seq[told["seq"]].append({**told, "subject": message.subject})

    def wrong(self, expected: dict[int, dict], data: pathlib.Path) -> dict[str, list]:
        """Mistakes by kind. `expected` has the fetches that must be done, by sequence; `data` the store's folder."""
        mistakes = collections.defaultdict(list)
        for seq in expected.keys() - self.done.keys():
            mistakes["not_done"].append(seq)
        for seq in self.done.keys() - expected.keys():
            mistakes["done_but_unknown"].append(seq)
        for seq, letters in self.dead.items():
            mistakes["dead"].append([seq, letters[0].get("code"), letters[0].get("reason")])
        for seq in expected.keys() & self.done.keys():
            if len(self.done[seq]) > 1:
                mistakes["done_twice"].append(seq)
            for told in self.done[seq]:
                for kind in self._wrong_of(told, expected[seq], data):
                    mistakes[kind].append(seq)
        return mistakes

    def _wrong_of(self, told: dict, fetch: dict, data: pathlib.Path):
        if told["id"] != fetch["id"]:
            yield "done_names_another_id"
        if told["subject"] != fetch_subject(fetch).replace(".fetch.", ".done.", 1):
            yield "done_has_another_subject"
        objects = told["objects"]
        if not objects:
            yield "done_without_objects"
            return
        # Its objects are compared with the judge's bytes by verify.py, through the manifest.
        manifest = (data / objects[0]["key"]).with_name("_manifest.json")
        if not manifest.is_file():
            yield "done_without_manifest"
            return
        written = json.loads(manifest.read_text())
        if (written["seq"], written["objects"]) != (told["seq"], objects):
            yield "done_and_manifest_differ"
