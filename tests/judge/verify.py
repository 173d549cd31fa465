"""Compares stored objects with the bytes that a judge must have answered, every fetch exactly once.

It reads the fetches, finds every `_manifest.json` below the data folder, and checks that each fetch has exactly one
manifest with exactly one object, that no object is without a manifest, and that length, hash and every byte are
those expected. Prints one JSON object; exit 1 when anything is wrong.
"""

import argparse
import collections
import gzip
import hashlib
import json
import pathlib
import sys
import urllib.parse

import zstandard

from bodies import judge_body, nginx_body

# So many of each kind of mistake are named; all are counted.
NAMED_MAX = 20


def plain(path: pathlib.Path) -> bytes:
    """An object's body after decompression, by the ending of its name."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return data


class Verification:
    def __init__(self, args):
        self.args = args
        self.mistakes = collections.defaultdict(list)
        self.fetches = {}
        self.objects = 0
        self.bytes = 0

    def wrong(self, kind: str, what):
        self.mistakes[kind].append(what)

    def expected(self, fetch: dict) -> bytes:
        fields = {**fetch["params"], "id": fetch["id"], "account": fetch["account"]}
        quoted = {k: urllib.parse.quote(str(v), safe="-_.~") for k, v in fields.items()}
        request = self.args.request.format(**quoted)
        if self.args.judge == "nginx":
            return nginx_body(fetch["account"], request)
        return judge_body(fetch["account"], request, self.args.body_bytes)

    def run(self) -> dict:
        for line in self.args.fetches.read_text().splitlines():
            fetch = json.loads(line)
            self.fetches[fetch["platform"], fetch["account"], fetch["api"], fetch["id"]] = fetch
        data = self.args.data
        # The queue and the ledger are no objects, and lines about objects are of no manifest.
        files = [
            path
            for path in data.rglob("*")
            if path.is_file() and path.relative_to(data).parts[0] not in ("state", "_manifests")
        ]
        manifests = [path for path in files if path.name == "_manifest.json"]
        named = set()
        found = collections.defaultdict(list)
        for path in manifests:
            manifest = json.loads(path.read_text())
            key = tuple(manifest[name] for name in ("platform", "account", "api", "id"))
            found[key].append(str(path.relative_to(data)))
            named.update(entry["key"] for entry in manifest["objects"])
            self.check(key, manifest)
        for key, paths in found.items():
            if len(paths) > 1:
                self.wrong("duplicate", paths)
        for key in self.fetches.keys() - found.keys():
            self.wrong("missing", list(key))
        for path in files:
            key = path.relative_to(data).as_posix()
            if path.name != "_manifest.json" and key not in named:
                self.wrong("without_manifest", key)
        if self.args.calls:
            self.check_calls()
        return {
            "fetches": len(self.fetches),
            "manifests": len(manifests),
            "objects": self.objects,
            "bytes": self.bytes,
            "wrong": {kind: len(what) for kind, what in self.mistakes.items()},
            "named": {kind: what[:NAMED_MAX] for kind, what in self.mistakes.items()},
        }

    def check(self, key: tuple, manifest: dict):
        fetch = self.fetches.get(key)
        if fetch is None:
            self.wrong("unknown_fetch", list(key))
            return
        if len(manifest["objects"]) != 1:
            self.wrong("not_one_object", list(key))
        for entry in manifest["objects"]:
            path = self.args.data / entry["key"]
            if not path.is_file():
                self.wrong("object_missing", entry["key"])
                continue
            self.objects += 1
            try:
                body = plain(path)
            except (zstandard.ZstdError, OSError, EOFError) as error:
                self.wrong("unreadable", f"{entry['key']}: {error}")
                continue
            self.bytes += len(body)
            if body != self.expected(fetch):
                self.wrong("other_bytes", entry["key"])
            is_as_said = (
                len(body) == entry["bytes"]
                and path.stat().st_size == entry["stored_bytes"]
                and hashlib.sha256(body).hexdigest() == entry["sha256"]
            )
            if not is_as_said:
                self.wrong("not_as_its_manifest_says", entry["key"])

    def check_calls(self):
        """Accepted calls that were made more than once. After a crash a few are no mistake, so they only
        show."""
        calls = map(json.loads, self.args.calls.read_text().splitlines())
        accepted = collections.Counter((c["account"], c["request"]) for c in calls if c["accepted"])
        for (account, request), count in accepted.items():
            if count > 1:
                self.wrong("called_again", [account, request, count])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="the folder of the store")
    parser.add_argument("fetches", type=pathlib.Path, help="what fetches.py wrote")
    parser.add_argument(
        "--request",
        default="/report?n={n}",
        help="path and query as on the wire; {name} is a parameter, {id} or {account}, percent-encoded",
    )
    parser.add_argument("--judge", choices=["limits", "nginx"], default="limits")
    parser.add_argument("--body-bytes", type=int, default=256, help="as given to judge_limits.py")
    parser.add_argument("--calls", type=pathlib.Path, help="the --log of judge_limits.py")
    result = (verification := Verification(parser.parse_args())).run()
    print(json.dumps(result, indent=1, ensure_ascii=False))
    sys.exit(1 if verification.mistakes.keys() - {"called_again"} else 0)


if __name__ == "__main__":
    main()
