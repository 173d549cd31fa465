"""Kills `tollgate run` while answers land, again and again, and looks at the store after each kill with its own eyes.

    landed.py --kills 50                                          # objects in files
    landed.py --kills 50 --s3s-fs target/tools/bin/s3s-fs         # objects in S3

A provider of its own answers slowly with bodies of 200 bytes to some MB, alone and in three pages. After each `kill -9`:
every object that is visible is whole (its bytes are the provider's), every fetch that was logged as done has its
manifest and its objects, and nothing that was complete is gone. At the end all fetches are done, every object has the
size and both hashes that its manifest says, every object is in a manifest and has a line below `_manifests/` that says
the same, and `tollgate verify` comes to the same numbers. Then it breaks the store in four ways and `verify` has to find
exactly these. With `--duckdb` a query engine reads the lines and agrees. Prints one JSON object; exit 1 if anything is wrong.
"""

import argparse
import collections
import datetime
import hashlib
import http.server
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import zstandard

from servers import S3Server

SIZES = {"small": 200, "middle": 60_000, "large": 7_000_000}
PAGES = 3
# The large ones come in pieces, so that kills meet them on their way.
PIECE = 700_000
PAUSE = 0.01


def body(api: str, account: str, fetch: str, page: int) -> bytes:
    """What the provider answers: JSON of a length that the api says, which does not compress."""
    of = random.Random(f"{api}/{account}/{fetch}/{page}")
    text = of.randbytes(SIZES.get(api, SIZES["middle"]) // 2).hex()
    last = api != "paged" or page == PAGES
    return json.dumps({"data": [text], "next": None if last else page + 1}).encode()


class Provider(http.server.ThreadingHTTPServer):
    daemon_threads = True
    calls = collections.Counter()

    def handle_error(self, *_):
        """A connection that a kill broke."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        at = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(at.query))
        api = at.path.strip("/")
        self.server.calls[self.path, self.headers["X-Account"]] += 1
        answer = body(api, self.headers["X-Account"], query["n"], int(query.get("page") or 1))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Request-Id", hashlib.md5(self.path.encode()).hexdigest())
        self.end_headers()
        try:
            for start in range(0, len(answer), PIECE):
                self.wfile.write(answer[start : start + PIECE])
                if len(answer) > PIECE:
                    time.sleep(PAUSE)
        except OSError:
            pass

    def log_message(self, *_):
        pass


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def is_in_order(entry: dict) -> bool:
    """`sent_at` may be missing: the answer was there before the writing was known."""
    names = ("queued_at", "permitted_at", "sent_at", "answered_at", "stored_at")
    times = [when(entry[name]) for name in names if name in entry]
    return times == sorted(times) and len(times) >= 4


class Judge:
    def __init__(self, args, folder: pathlib.Path):
        self.args = args
        self.folder = folder
        self.wrong = collections.Counter()
        self.named = []
        self.complete = {}
        self.done = set()
        # Objects that were found whole, with their sizes and times: they are not read again until they change.
        self.whole = {}
        self.environment = None
        self.provider = Provider(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.provider.serve_forever, daemon=True).start()
        self.s3 = None
        store = f'[store]\nurl = "file:{folder}/objects"\n'
        self.objects = folder / "objects"
        if args.s3s_fs:
            self.s3 = S3Server(folder, args.s3s_fs)
            self.s3.start()
            store = self.s3.store()
            self.objects = self.s3.objects
            self.environment = self.s3.environment | S3Server.KEYS
        if args.narrow:
            store += 'key = "{platform}/{api}/{account}/all/{params.n}/{page}.{ext}"\n'
        port = self.provider.server_address[1]
        apis = "".join(
            f'[platforms.p.apis.{api}]\npath = "{api}"\nquery = {{ n = "{{n}}" }}\nformat = "json"\n'
            for api in ("small", "middle", "large")
        )
        apis += (
            '[platforms.p.apis.paged]\npath = "paged"\nquery = { n = "{n}", page = "{page.cursor}" }\nformat = "json"\n'
            'pages = { by = "cursor", next = "next", end = "absent" }\n'
        )
        self.config = folder / "tollgate.toml"
        self.config.write_text(
            f'[node]\nname = "judged"\ndata = "{folder}/data"\n{store}'
            f'[platforms.p]\nbase_url = "http://127.0.0.1:{port}/"\nheaders = {{ X-Account = "{{account}}" }}\n'
            f'[platforms.p.limits]\ngap = {{ per = ["account"], every = "{args.gap}" }}\n{apis}'
        )
        self.fetches = {}
        lines = []
        for number in range(args.fetches):
            for account in range(args.accounts):
                api = ("small", "middle", "small", "paged", "large" if number % 2 else "small")[(number + account) % 5]
                fetch = {"platform": "p", "account": f"act_{account}", "api": api, "id": f"f{number}", "params": {"n": str(number)}}
                self.fetches[fetch["account"], api, fetch["id"]] = fetch
                lines.append(json.dumps(fetch))
        (folder / "fetches.jsonl").write_text("\n".join(lines) + "\n")

    def mistake(self, kind: str, what):
        self.wrong[kind] += 1
        if len(self.named) < 20:
            self.named.append(f"{kind}: {what}")

    def command(self, *words):
        return [str(self.args.tollgate), "--config", str(self.config), *words]

    def run(self):
        """One life; its log goes on in the same file."""
        log = (self.folder / "log").open("ab")
        return subprocess.Popen(
            self.command("--log-format", "json", "--log-level", "info", "run", "--json", str(self.folder / "fetches.jsonl")),
            stdout=subprocess.PIPE, stderr=log, env=self.environment,
        )

    def files(self):
        """Every object, by its key; staging files are none."""
        found = {}
        for path in self.objects.rglob("*"):
            key = path.relative_to(self.objects).as_posix()
            if path.is_file() and "#" not in key and not key.startswith((".", "_probe-")):
                found[key] = path
        return found

    def look(self, is_last=False):
        """What is there is whole, and what was done is there."""
        files = self.files()
        for line in (self.folder / "log").read_bytes().splitlines():
            if b'"fetch_done"' in line:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                self.done.add((event["account"], event["api"], event["fetch_id"]))
        manifests = {}
        for key, path in files.items():
            if path.name == "_manifest.json":
                try:
                    manifest = json.loads(path.read_bytes())
                except ValueError:
                    self.mistake("torn manifest", key)
                    continue
                of = (manifest["account"], manifest["api"], manifest["id"])
                manifests[of] = manifest
                for entry in manifest["objects"]:
                    if entry["key"] not in files:
                        self.mistake("manifest of an object that is not there", entry["key"])
            elif not key.startswith(("_manifests/",)) and not path.name.startswith("_"):
                state = path.stat()
                mark = (state.st_size, state.st_mtime_ns, state.st_ino)
                if self.whole.get(key) == mark:
                    continue
                _, api, account, _, fetch, name = key.split("/")
                expected = body(api, account, fetch.removeprefix("f"), int(name.split(".")[0]))
                try:
                    plain = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()
                except (zstandard.ZstdError, FileNotFoundError) as error:
                    self.mistake("torn object", f"{key}: {error}")
                    continue
                if plain != expected:
                    self.mistake("torn object", f"{key}: {len(plain)} of {len(expected)} bytes")
                else:
                    self.whole[key] = mark
        for of in self.done - manifests.keys():
            self.mistake("done and not there", of)
        for of in self.complete.keys() - manifests.keys():
            self.mistake("complete and gone", of)
        self.complete = manifests
        return files, manifests

    def settle(self):
        """What the S3 server has taken before the kill appears a little later."""
        if self.s3:
            time.sleep(0.15)

    def judge(self) -> dict:
        luck = random.Random(self.args.seed)
        kills = 0
        while kills < self.args.kills:
            life = self.run()
            try:
                life.wait(luck.uniform(0.05, self.args.life))
                self.mistake("ended before all kills", life.returncode)
                break
            except subprocess.TimeoutExpired:
                life.kill()
                life.wait()
            kills += 1
            self.settle()
            self.look()
        done, code, replayed = self.finish()
        if done != len(self.fetches) or code != 0:
            self.mistake("not all are done", [done, code])
        files, manifests = self.look()
        for of in self.fetches.keys() - manifests.keys():
            self.mistake("missing", of)
        sums = self.rehash(files, manifests)
        if self.args.narrow:
            self.owners(files, manifests)
        lines = self.lines(files, sums)
        verified = self.verify()
        for name, own in (("manifests", len(manifests)), ("objects", len(sums)), ("stored_bytes", sum(s for s, *_ in sums.values()))):
            if verified[-1][name] != own:
                self.mistake("verify differs", f"{name}: {verified[-1][name]} and {own}")
        if not verified[-1]["verified"]:
            self.mistake("verify found something", verified[:5])
        ducks = self.duckdb(sums) if self.args.duckdb else None
        self.break_it(files, sums)
        return {
            "kills": kills,
            "given_up_and_replayed": replayed,
            "fetches": len(self.fetches),
            "calls": sum(self.provider.calls.values()),
            "objects": len(sums),
            "bytes": sum(size for size, *_ in sums.values()),
            "lines": lines,
            "duckdb": ducks,
            "verified": verified[-1],
            "wrong": dict(self.wrong),
            "named": self.named,
        }

    def finish(self):
        """Lets it end. What too many kills have met in flight is given up by design (TG0209), and collected again by hand."""
        done, replayed = 0, 0
        for _ in range(2):
            life = self.run()
            summary = json.loads(life.communicate(timeout=600)[0].splitlines()[-1])
            done = max(done, summary["done"])
            listed = subprocess.run(self.command("dead", "list", "--json"), capture_output=True, text=True, env=self.environment)
            dead = [json.loads(line) for line in listed.stdout.splitlines()]
            for letter in dead:
                if letter["code"] != "TG0209":
                    self.mistake("dead", letter)
            if not dead:
                break
            replayed += len(dead)
            subprocess.run(self.command("dead", "replay", "--all"), capture_output=True, env=self.environment, check=True)
        return done, life.returncode, replayed

    def rehash(self, files, manifests) -> dict:
        """Both hashes and sizes of every object, held against its manifest."""
        sums, claimed = {}, set()
        for of, manifest in manifests.items():
            call = manifest.get("provenance", {})
            if not (call.get("node") == "judged" and call.get("config") and call.get("recipe")):
                self.mistake("a manifest without its provenance", of)
            for entry in manifest["objects"]:
                data = files[entry["key"]].read_bytes()
                plain = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
                sums[entry["key"]] = (len(data), sha256(data), len(plain), sha256(plain))
                said = (entry["stored_bytes"], entry.get("stored_sha256", sha256(data)), entry["bytes"], entry["sha256"])
                if said != sums[entry["key"]]:
                    self.mistake("not as its manifest says", entry["key"])
                if entry["key"] in claimed:
                    self.mistake("in two manifests", entry["key"])
                claimed.add(entry["key"])
        for key, path in files.items():
            if not path.name.startswith("_") and not key.startswith("_manifests/") and key not in claimed:
                self.mistake("in no manifest", key)
        return sums

    def owners(self, files, manifests):
        """Every folder says whose it is."""
        for of, manifest in manifests.items():
            key = str(pathlib.PurePosixPath(manifest["objects"][0]["key"]).with_name("_owner.json"))
            owner = json.loads(files[key].read_bytes()) if key in files else {}
            if of != tuple(owner.get(name) for name in ("account", "api", "id")):
                self.mistake("its owner is another", [of, owner])

    def lines(self, files, sums) -> int:
        """The last line of every object says what is there."""
        last, count = {}, 0
        for key, path in files.items():
            if key.startswith("_manifests/dt="):
                for line in path.read_text().splitlines():
                    count += 1
                    entry = json.loads(line)
                    before = last.get(entry["key"])
                    if before is None or when(entry["stored_at"]) >= when(before["stored_at"]):
                        last[entry["key"]] = entry
        for key, (stored, stored_sha, size, sha) in sums.items():
            entry = last.get(key)
            if entry is None:
                self.mistake("without a line", key)
            elif (entry["stored_bytes"], entry["stored_sha256"], entry["bytes"], entry["sha256"]) != (stored, stored_sha, size, sha):
                self.mistake("its line says another", key)
            elif not is_in_order(entry):
                self.mistake("its times are out of order", entry)
            elif entry["status"] != 200 or entry["url"].split("?")[0] != f"http://127.0.0.1:{self.provider.server_address[1]}/{entry['api']}":
                self.mistake("its call is another", entry)
        return count

    def verify(self, *words) -> list:
        """What `tollgate verify --json` prints: findings, and the numbers last."""
        done = subprocess.run(self.command("verify", "--json", *words), capture_output=True, text=True, env=self.environment, timeout=600)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if not lines or (done.returncode == 0) != lines[-1]["verified"]:
            self.mistake("verify", done.stderr + done.stdout)
        return lines

    def duckdb(self, sums) -> dict:
        import duckdb

        started = time.monotonic()
        last, stored, slowest = duckdb.sql(
            f"""
            with last as (
              select *, row_number() over (partition by key order by stored_at desc) as place
              from read_json('{self.objects}/_manifests/*/*.jsonl', hive_partitioning = true)
            )
            select count(*), sum(stored_bytes), max(answered_at::timestamptz - permitted_at::timestamptz)::varchar
            from last where place = 1 and dt is not null and account like 'act_%' and params.n is not null
            """
        ).fetchall()[0]
        manifests = duckdb.sql(
            f"select count(*), sum(len(objects)) from read_json('{self.objects}/p/**/_manifest.json', union_by_name = true)"
        ).fetchall()[0]
        if (last, stored) != (len(sums), sum(size for size, *_ in sums.values())) or manifests[1] != len(sums):
            self.mistake("duckdb differs", [last, stored, manifests])
        return {"objects": last, "manifests": manifests[0], "slowest_answer": slowest, "seconds": round(time.monotonic() - started, 2)}

    def break_it(self, files, sums):
        """Four kinds of damage; `verify` finds these and nothing else."""
        keys = sorted(sums, key=lambda key: sums[key][0])
        flipped, torn, gone = keys[-1], keys[-2], keys[0]
        data = bytearray(files[flipped].read_bytes())
        data[len(data) // 2] ^= 1
        files[flipped].write_bytes(data)
        files[torn].write_bytes(files[torn].read_bytes()[:-1])
        files[gone].unlink()
        orphan = str(pathlib.PurePosixPath(keys[1]).with_name("00099.json.zst"))
        shutil.copy(files[keys[1]], self.objects / orphan)
        found = {(entry["fault"], entry["key"]) for entry in self.verify()[:-1] if entry["fault"] != "nothing"}
        expected = {("different", flipped), ("torn", torn), ("missing", gone), ("orphaned", orphan)}
        if found != expected:
            self.mistake("verify does not find what was broken", sorted(found ^ expected))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tollgate", type=pathlib.Path, default=pathlib.Path("target/release/tollgate"))
    parser.add_argument("--s3s-fs", type=pathlib.Path, help="the S3 server; without it objects go to files")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--life", type=float, default=0.8, help="longest life in seconds")
    parser.add_argument("--accounts", type=int, default=20)
    parser.add_argument("--fetches", type=int, default=20, help="per account")
    parser.add_argument("--narrow", action="store_true", help="has a store.key without {id}")
    parser.add_argument("--gap", default="1s", help="between two calls of an account")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duckdb", action="store_true", help="has DuckDB read the manifests too (PyPI: duckdb)")
    parser.add_argument("--keep", action="store_true", help="leaves the folder")
    args = parser.parse_args()
    args.tollgate = args.tollgate.resolve()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tollgate-landed-"))
    judge = Judge(args, folder)
    try:
        result = judge.judge()
    finally:
        if judge.s3:
            judge.s3.stop()
    if not args.keep:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=1))
    sys.exit(1 if judge.wrong else 0)


if __name__ == "__main__":
    main()
