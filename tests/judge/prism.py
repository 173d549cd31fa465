"""A public OpenAPI document nobody here wrote, served by a public mock: is each of its answers stored or classed rightly?

    npm install --prefix target/judge/npm @stoplight/prism-cli @octokit/openapi
    prism.py --npm target/judge/npm --binary target/release/tollgate

The recipe, github.toml, is written from GitHub's document alone. Prism refuses what the document does not allow (`--errors`), so
that a request which is not as documented fails. Each documented status of each operation is asked for once. A good answer must be
stored as the mock gives it to anybody else; every other must end as its status says.

With `--errors` prism also refuses to give an example of the document that is not as the document's own schema says: a 500 in place of a
200, whoever asks and whatever the request. Such a 500 must be classed as one, must complain of the response only, and then the
same fetch is made to a second prism without `--errors`, which gives the example: there it must be stored as any good answer. Prints
one JSON object; exit 1 if anything is not as it should be.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from running import HERE, free_port

DOCUMENT = "node_modules/@octokit/openapi/generated/api.github.com.json"
REPO = {"owner": "octocat", "repo": "hello-world"}
# Of each api: method and path in the document, parameters of the fetch.
APIS = {
    "repo": ("get", "/repos/{owner}/{repo}", REPO),
    "issues": ("get", "/repos/{owner}/{repo}/issues",
               REPO | {"state": "open", "labels": ["bug", "a,b & c"], "since": "2026-11-01", "page": 2}),
    "search": ("get", "/search/issues", {"q": "windows label:bug language:c++", "sort": "created"}),
    "org-repos": ("get", "/orgs/{org}/repos", {"org": "github", "type": "public"}),
    "new-issue": ("post", "/repos/{owner}/{repo}/issues", REPO | {"title": 'Found "a" bug', "labels": ["bug"], "milestone": 1}),
    "edit-issue": ("patch", "/repos/{owner}/{repo}/issues/{issue_number}", REPO | {"number": 7, "state": "closed"}),
    "topics": ("put", "/repos/{owner}/{repo}/topics", REPO | {"names": ["octocat", "api"]}),
    "unwatch": ("delete", "/repos/{owner}/{repo}/subscription", REPO),
    "runs": ("get", "/repos/{owner}/{repo}/actions/runs", REPO | {"without_pulls": True}),
    "commits": ("get", "/repos/{owner}/{repo}/commits", REPO),
    "user": ("get", "/users/{username}", {"username": "octocat"}),
    "markdown": ("post", "/markdown", {"text": "Hello **world**"}),
    "advisories": ("get", "/advisories", {"ecosystem": "npm", "cwes": ["79", "22"]}),
    "rate-limit": ("get", "/rate_limit", {}),
}
# What a documented status must become. 429 is tried for as long as its fetch may be: it ends with its deadline.
CLASSES = {301: "TG0206", 302: "TG0206", 304: "TG0206", 429: "TG0114", 500: "TG0202", 503: "TG0202"}


def wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        if process.poll() is not None:
            sys.exit("prism ended")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/rate_limit", timeout=5).read()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    sys.exit("prism does not answer")


def plain(port: int, method: str, path: str, code: int, sent: dict) -> bytes:
    """What the mock answers to a request made by urllib, its body and query as the document's examples would have them."""
    path = path.replace("{issue_number}", "7")
    for name, value in sent.items():
        path = path.replace("{" + name + "}", str(value))
    bodies = {
        "post/markdown": {"text": "x"},
        "put": {"names": ["a"]},
        "patch": {"state": "closed"},
        "post": {"title": "x"},
    }
    body = None
    if method in ("post", "put", "patch"):
        body = json.dumps(bodies.get(method + path, bodies[method])).encode()
    query = "?q=x" if path == "/search/issues" else ""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}{query}", data=body, method=method.upper())
    request.add_header("Prefer", f"code={code}")
    request.add_header("Content-Type", "application/json")
    try:
        return urllib.request.urlopen(request, timeout=30).read()
    except urllib.error.HTTPError as error:
        # The mock cannot give what its document says: that is no answer to be judged by.
        return f"{error.code}: ".encode() + error.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--npm", type=pathlib.Path, default=HERE.parent.parent / "target/judge/npm")
    parser.add_argument("--binary", type=pathlib.Path, default=HERE.parent.parent / "target/release/tollgate")
    args = parser.parse_args()
    document = args.npm / DOCUMENT
    operations = json.loads(document.read_text())["paths"]
    mocks = []
    try:
        for options in (["--errors"], []):
            port = free_port()
            command = [args.npm / "node_modules/.bin/prism", "mock", "-h", "127.0.0.1", "-p", str(port), *options, document]
            mocks.append((port, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
            wait_for(*mocks[-1])
        return judge(args.binary.resolve(), operations, *(port for port, _ in mocks))
    finally:
        for _, prism in mocks:
            prism.terminate()
            prism.wait()


def collect(binary: pathlib.Path, port: int, folder: pathlib.Path, fetches: list) -> tuple:
    """Runs these fetches against a mock: the run's summary, the dead letters by id, and what was stored of a fetch."""
    folder.mkdir()
    config = (HERE / "github.toml").read_text()
    config = config.replace("@DATA@", str(folder / "data")).replace("@URL@", f"http://127.0.0.1:{port}/")
    (folder / "tollgate.toml").write_text(config)
    (folder / "fetches.jsonl").write_text("".join(json.dumps(fetch) + "\n" for fetch in fetches))
    run = [binary, "--config", "tollgate.toml"]
    environment = os.environ | {"GITHUB_TOKEN": "token-of-nobody"}
    ran = subprocess.run([*run, "run", "--json", "fetches.jsonl"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if not ran.stdout:
        sys.exit(f"the run told nothing: {ran.stderr}")
    listed = subprocess.run([*run, "dead", "list", "--json"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    dead = {letter["fetch"]["id"]: letter for letter in map(json.loads, listed.stdout.splitlines())}
    summary = json.loads(ran.stdout.splitlines()[-1])

    def stored(api: str, name: str) -> list:
        return [path.read_bytes() for path in (folder / "data" / "github" / api / name).glob(f"*/{name}/00001.*")]

    return summary, dead, stored


def own_fault(answer: bytes) -> bool:
    """Whether the mock complains of its own document, and of nothing in the request."""
    try:
        problem = json.loads(answer)
        return problem["type"].endswith("#VIOLATIONS") and all(one["location"][0] == "response" for one in problem["validation"])
    except (ValueError, KeyError):
        return False


def judge(binary: pathlib.Path, operations: dict, strict: int, lenient: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return judge_in(pathlib.Path(folder), binary, operations, strict, lenient)


def judge_in(folder: pathlib.Path, binary: pathlib.Path, operations: dict, strict: int, lenient: int) -> int:
    fetches, wanted = [], {}
    deadline = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 20))
    for api, (method, path, params) in APIS.items():
        for status in operations[path][method]["responses"]:
            code, name = int(status), f"{api}-{status}"
            fetch = {"id": name, "platform": "github", "account": name, "api": api, "params": params | {"code": code}}
            if code == 429:
                fetch["deadline"] = deadline
            fetches.append(fetch)
            wanted[name] = (api, method, path, params, code)
    summary, dead, stored = collect(binary, strict, folder / "strict", fetches)
    counts, wrong, flawed = {"stored": 0, "classed": 0}, [], []

    def note(what: str, name: str, right: bool, objects: list, letter: dict | None, mock: bytes = b"") -> None:
        if right:
            counts[what] += 1
            return
        told = letter and (letter["code"], letter["reason"], letter.get("body_start"))
        wrong.append({"of": name, "objects": len(objects), "dead": told, "mock": mock[:300].decode(errors="replace")})

    for name, (api, method, path, params, code) in wanted.items():
        objects, letter = stored(api, name), dead.get(name)
        if not 200 <= code < 300:
            right = letter and letter["code"] == CLASSES.get(code, "TG0201") and not objects and letter.get("http_status", code) == code
            note("classed", name, bool(right), objects, letter)
            continue
        answer = plain(strict, method, path, code, params)
        if answer.startswith(b"500: ") and own_fault(answer[5:]):
            as_500 = letter and letter["code"] == "TG0202" and letter["http_status"] == 500 and not objects
            if as_500 and own_fault(letter["body_start"].encode()):
                flawed.append(name)
            else:
                note("stored", name, False, objects, letter, answer)
            continue
        note("stored", name, letter is None and objects == [answer], objects, letter, answer)
    if flawed:
        again = [fetch for fetch in fetches if fetch["id"] in flawed]
        _, dead, stored = collect(binary, lenient, folder / "lenient", again)
        for name in flawed:
            api, method, path, params, code = wanted[name]
            answer, objects, letter = plain(lenient, method, path, code, params), stored(api, name), dead.get(name)
            note("stored", name, letter is None and objects == [answer], objects, letter, answer)
    figures = {"operations": len(APIS), "answers": len(wanted), **counts, "of_flawed_examples": flawed, "wrong": wrong, "run": summary}
    print(json.dumps(figures, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
