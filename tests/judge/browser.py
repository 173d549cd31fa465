"""The page of a node, in a real browser (Chromium, headless), and its API, by schemathesis and openapi-spec-validator.

    browser.py --tollgate target/debug/tollgate                    what bin/test runs
    browser.py --accounts 100000 --no-api                          figures of a node with very many accounts: minutes
    browser.py --shots FOLDER                                      pictures of every view, wide and narrow, light and dark

A page that loads, numbers that change, a search, a pause, a replay, a login over plain http from elsewhere; no error in the console, no
request to another host, no violation of the page's policy. With many accounts: when the first paint was, and the node's memory while the page is
open. The last line is one JSON object. Where there is no Chromium that is said, and only the API is looked at.
"""

import argparse
import asyncio
import contextlib
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse

from backlog import Backlog
from many import write_fetches
from run_served import add_servers, run_in_folder
from running import HERE, Running, free_port
from servers import DRAINED_WITHIN, Failure, NatsServer, Node, nats_server_path

# Patience for something to show on the page, in seconds.
SHOWS_WITHIN = 20.0
# How long memory is looked at while the page is open.
OPEN_FOR = 60.0
OPENAPI = HERE.parent.parent / "docs/openapi.json"
VIEWS = ["/", "/platforms", "/accounts", "/account/judge/act_00000", "/dead", "/config"]


def settings(port: int, gone: int, nats_url: str, data: pathlib.Path, limit: str) -> str:
    return "\n".join(
        [
            "[nats]",
            f"url = {json.dumps(nats_url)}",
            "[store]",
            f"url = {json.dumps(f'file:{data}')}",
            "[platforms.judge]",
            f'base_url = "http://127.0.0.1:{port}/"',
            'headers = { X-Account = "{account}" }',
            f'limits.window = {{ per = ["account"], {limit} }}',
            'limits.gap = { per = ["account"], every = "200ms" }',
            'limits.app = { per = ["platform"], max = 2000, in = "10s" }',
            "[platforms.judge.apis.report]",
            'path = "report"',
            'query = { n = "{n}" }',
            "[platforms.gone]",
            f'base_url = "http://127.0.0.1:{gone}/"',
            "[platforms.gone.apis.report]",
            'path = "report"',
            "",
        ]
    )


class Gone(http.server.BaseHTTPRequestHandler):
    """A provider that has nothing: what is asked of it is given up."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Browser:
    """Chromium that tells all that it was asked for and all that went wrong."""

    def __init__(self, chromium: str, driver: str, width: int = 1280, height: int = 900, dark: bool = False, name: str = "127.0.0.1"):
        """`name`: what this machine is called in addresses."""
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb"]
        if name != "127.0.0.1":
            words.append(f"--host-resolver-rules=MAP {name} 127.0.0.1")
        self.name = name
        for word in [*words, f"--window-size={width},{height}"]:
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.driver.execute_cdp_cmd("Page.enable", {})
        # Told before the page's own scripts run.
        watch = "window.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective + ' ' + e.blockedURI));"
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": watch})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.troubles = []
        self.requests = 0

    def go(self, url: str):
        self.driver.get(url)

    def js(self, text: str, *values):
        return self.driver.execute_script(text, *values)

    def text(self, selector: str = "main") -> str:
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def until(self, what: str, look):
        give_up_at = time.monotonic() + SHOWS_WITHIN
        while not (found := look()):
            if time.monotonic() > give_up_at:
                raise Failure(f"the page does not show {what}: {self.text('body')[:1500]}")
            time.sleep(0.05)
        return found

    def click(self, words: str, within: str = "main"):
        """The button of that text or label."""
        find = """for (const button of document.querySelector(arguments[1]).querySelectorAll('button'))
          if (!button.disabled && (button.getAttribute('aria-label') ?? button.innerText).trim() === arguments[0]) { button.click(); return true; }"""
        self.until(f"a button {words}", lambda: self.js(find, words, within))

    def type(self, selector: str, words: str):
        set_it = "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input', {bubbles: true}));"
        self.js(set_it, selector, words)

    def look(self, port: int):
        """Gathers what went wrong so far."""
        for line in self.driver.get_log("browser"):
            if line["level"] in ("SEVERE", "WARNING"):
                self.troubles.append(f"console: {line['message']}")
        for line in self.driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests += 1
                url = urllib.parse.urlsplit(message["params"]["request"]["url"])
                if url.scheme not in ("data", "blob") and url.netloc != f"{self.name}:{port}":
                    self.troubles.append(f"a request to {url.netloc or url.geturl()}")
        self.troubles += [f"policy: {one}" for one in self.js("return window.violations ?? []")]

    def shot(self, path: pathlib.Path):
        height = self.js("return document.documentElement.scrollHeight")
        options = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": self.js("return innerWidth"), "height": min(height, 3000), "scale": 1}}
        import base64

        told = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self):
        self.driver.quit()


def chromium() -> tuple[str, str] | None:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (binary, driver) if binary and driver else None


def look_at_all(browser: Browser, node: Node, accounts: int) -> dict:
    """What an operator does with the page."""
    at = f"http://127.0.0.1:{node.port}/"
    browser.go(at)
    browser.until("what is live", lambda: "live" == browser.text("#live"))
    browser.until("plots", lambda: browser.js("return document.querySelectorAll('.plot canvas').length") == 3)
    first = browser.until("waiting fetches", lambda: browser.text(".tiles"))
    browser.until("numbers that change", lambda: browser.text(".tiles") != first)
    browser.until("what doctor finds", lambda: browser.js("return document.querySelectorAll('.finding').length"))
    paint = browser.js("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime")

    browser.go(f"{at}#/accounts")
    browser.until("all accounts", lambda: f"{accounts:,} of" in browser.text(".head"))
    name = f"act_{accounts - 1:05}"
    browser.type("#search", name.upper())
    browser.until("the account that is looked for", lambda: browser.js("return document.querySelectorAll('tbody tr').length") == 1 and name in browser.text("tbody"))
    browser.click(f"Pause {name}")
    browser.until("a question", lambda: browser.js("return !!document.querySelector('dialog[open]')"))
    browser.type("dialog input[name=reason]", "a look at the page")
    browser.click("Pause", "dialog")
    browser.until("the hold", lambda: "a look at the page" in browser.text("tbody"))
    browser.js("document.querySelector('tbody a').click()")
    browser.until("the account", lambda: name in browser.text("h1") and "window" in browser.text())
    browser.until("its hold", lambda: "a look at the page" in browser.text())
    browser.click("Resume")
    browser.until("that it goes on", lambda: "Nothing holds it but its limits" in browser.text())

    turn_and_search_while_asking(browser, at, accounts)
    # A name that no path can have, and an address that is not encoded well. Nothing is known of either, which the console says.
    browser.look(node.port)
    browser.go(f"{at}#/account/gone/..")
    asked = "return performance.getEntriesByType('resource').some((one) => one.name.endsWith('/account?platform=gone&account=..'))"
    browser.until("that the account .. is asked for", lambda: browser.js(asked))
    browser.go(f"{at}#/account/gone/100%")
    browser.until("a name as it stands in a bad address", lambda: "100%" in browser.text("h1") and "nothing waiting" in browser.text())
    browser.look(node.port)
    browser.troubles = [one for one in browser.troubles if "/api/v1/account?platform=gone" not in one]

    browser.go(f"{at}#/dead")
    browser.until("dead letters", lambda: browser.js("return document.querySelectorAll('tbody tr').length") == 2)
    numbers = browser.js("return [...document.querySelectorAll('tbody button[aria-label^=Show]')].map((one) => one.innerText.trim())")
    browser.click(f"Show letter {numbers[0]}")
    browser.until("the letter", lambda: "TG0201" in browser.text("dialog"))
    browser.click("Close", "dialog")
    browser.click(f"Replay letter {numbers[0]}")
    browser.until("that it is collected again", lambda: f"letter {numbers[0]} is collected again" in browser.text("#notes"))
    # The provider still has nothing, so it dies once more, under another number.
    gone = f"return !document.querySelector('button[aria-label=\"Show letter {numbers[0]}\"]')"
    browser.until("that the letter is gone", lambda: browser.js(gone))
    browser.click(f"Drop letter {numbers[1]}")
    browser.click("Drop", "dialog")
    browser.until("that it is dropped", lambda: f"letter {numbers[1]} is dropped" in browser.text("#notes"))

    browser.go(f"{at}#/platforms")
    browser.until("the limits as declared", lambda: "per account" in browser.text() and "budget" not in browser.text(".banner"))
    browser.go(f"{at}#/config")
    browser.until("the configuration", lambda: "platform judge" in browser.text("pre"))
    browser.look(node.port)
    if browser.troubles:
        raise Failure("; ".join(dict.fromkeys(browser.troubles)))
    return {"first_paint_ms": round(paint, 1), "requests": browser.requests}


def turn_and_search_while_asking(browser: Browser, at: str, accounts: int):
    """What is pressed and typed while a question is on its way counts: the old answer is not shown under the new question."""
    browser.go(f"{at}#/accounts?sort=name")
    # Pages of ten, and answers that are held back while the test says so.
    browser.js(
        """const real = window.fetch; window.holding = false; window.held = 0;
        window.fetch = async (path, options) => {
          const is_list = path.includes('accounts?');
          const answer = await real(path.replace('most=50', 'most=10'), options);
          if (is_list && holding) held += 1;
          while (is_list && holding) await new Promise((done) => setTimeout(done, 10));
          return answer;
        };
        window.drawn = [];"""
    )
    names = "return [...document.querySelectorAll('tbody tr')].map((row) => row.querySelector('a').innerText).join(' ')"
    page = "return document.querySelector('.foot').innerText"
    first = browser.until("a page of ten", lambda: browser.js("return document.querySelectorAll('tbody tr').length") == 10 and browser.js(names))

    def hold():
        browser.js("window.held = 0; window.holding = true")
        browser.until("a question that is on its way", lambda: browser.js("return held") > 0)

    def let_go(place: str):
        """What is shown in that place first from now on."""
        watch = """window.drawn = []; const place = document.querySelector(arguments[0]);
          window.watching?.disconnect();
          window.watching = new MutationObserver(() => drawn.push(place.innerText));
          watching.observe(place, { childList: true, subtree: true, characterData: true });
          window.holding = false;"""
        browser.js(watch, place)
        return browser.until(f"something new in {place}", lambda: browser.js("return drawn[0]"))

    hold()
    browser.js("const next = document.querySelector('[data-focus=next]'); next.click(); next.click();")
    if "Page 2" not in (shown := let_go(".foot")):
        raise Failure(f"after two clicks on Next during a question the page says {shown}")
    second = browser.js(names)
    if set(second.split()) & set(first.split()) or "Page 2" not in browser.js(page):
        raise Failure(f"page 2 shows {second}, page 1 showed {first}")
    hold()
    browser.type("#search", f"act_{accounts - 1:05}")
    # The page waits 200 ms for more to be typed.
    time.sleep(0.5)
    if not (shown := let_go("#matching")).startswith("1 of"):
        raise Failure(f"what is shown first under another search is {shown}")


def log_in_over_plain_http(found: tuple[str, str], folder: pathlib.Path, args, nats_url: str):
    """As from another machine: no browser trusts that name, so it tells less of where a form comes from."""
    name, token = "node.tollgate.test", "a-token-of-the-page-0815"
    config = settings(free_port(), free_port(), nats_url, folder / "objects", 'max = 6, in = "20s"')
    node = Node("node-1", folder, args.tollgate, config, environment={"PAGE_TOKEN": token}, log_level="warn")
    node.settings.write_text(node.settings.read_text().replace("[nats]", 'token = "env:PAGE_TOKEN"\n[nats]', 1))
    node.start()
    try:
        node.wait_ready()
        with contextlib.closing(Browser(*found, name=name)) as browser:
            browser.go(f"http://{name}:{node.port}/")
            browser.until("that it asks for the token", lambda: "Log in" in browser.text("form"))
            send = "document.getElementById('token').value = arguments[0]; document.querySelector('form').requestSubmit();"
            browser.js(send, token)
            browser.until("the page behind the login", lambda: "live" == browser.text("#live"))
            browser.js("document.querySelector('#logout button').click()")
            browser.until("the login once more", lambda: browser.js("return !!document.getElementById('token')"))
            # The first look at the page is refused, which the console says.
            browser.look(node.port)
            browser.troubles = [one for one in browser.troubles if "status of 401" not in one]
            if browser.troubles:
                raise Failure("; ".join(dict.fromkeys(browser.troubles)))
    finally:
        node.stop()


def memory_while_open(browser: Browser, node: Node, accounts: int) -> dict:
    """How the node's memory goes while the page is open, on the overview and on the accounts in turn."""
    points, paints = [], []
    started = time.monotonic()
    while time.monotonic() - started < OPEN_FOR:
        for view in ("", "#/accounts", f"#/accounts?search=act_{accounts // 2:05}"):
            browser.go("about:blank")
            browser.go(f"http://127.0.0.1:{node.port}/{view}")
            browser.until("something", lambda: browser.text("main table") or browser.text(".tiles"))
            paints.append(browser.js("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"))
            time.sleep(2.5)
            node.look()
            points.append(round(node.usage.rss_over_time[-1][1] / 1e6, 1))
    told = sorted(paint for paint in paints if paint)
    return {"node_rss_mb": [points[0], points[len(points) // 2], points[-1]], "node_rss_mb_most": max(points), "paint_ms_most": round(told[-1], 1), "paints": len(told)}


def questions_take(node: Node, accounts: int) -> dict:
    """Milliseconds of questions that look at all accounts, the longest of five."""
    import urllib.request

    told = {}
    for name, path in {"overview": "overview", "page": "accounts?most=50", "search": f"accounts?search=_{accounts // 3}&sort=name", "health": "../../healthz"}.items():
        longest = 0.0
        for _ in range(5):
            began = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{node.port}/{'healthz' if name == 'health' else 'api/v1/' + path}", timeout=30) as answer:
                answer.read()
            longest = max(longest, time.monotonic() - began)
        told[name] = round(1000 * longest, 1)
    return told


def judge_api(node: Node, folder: pathlib.Path, examples: int) -> dict:
    """The description is one, and the node keeps to it whatever it is asked."""
    from openapi_spec_validator import validate

    with OPENAPI.open() as text:
        described = json.load(text)
    validate(described)
    if json.loads(node.get("/api/v1/openapi.json")[1]) != described:
        raise Failure("the node tells another description than docs/openapi.json")
    # While a node that has ended still counts as one, an account that is not found may be its own, and that is a 503.
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(f"http://127.0.0.1:{node.port}/api/v1/overview", timeout=30) as answer:
                if json.load(answer)["silent"] == 0:
                    break
        time.sleep(0.5)
    # The stream has no end that could be waited for; the other paths are asked with made-up values, good and bad.
    command = [pathlib.Path(sys.executable).with_name("schemathesis"), "run", f"http://127.0.0.1:{node.port}/api/v1/openapi.json"]
    command += ["--url", f"http://127.0.0.1:{node.port}", "--max-examples", examples, "--seed", 1, "--workers", 1, "--exclude-path", "/api/v1/events"]
    command += ["--phases", "examples,coverage,fuzzing", "--request-timeout", 20, "--no-color", "--suppress-health-check", "all"]
    command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method"]
    began = time.monotonic()
    ran = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
    (folder / "schemathesis.log").write_text(ran.stdout + ran.stderr)
    if ran.returncode != 0:
        raise Failure(f"schemathesis: exit {ran.returncode}\n{(ran.stdout + ran.stderr)[-6000:]}")
    cases = [line.strip() for line in ran.stdout.splitlines() if "test cases" in line or "generated" in line]
    node.must_live()
    return {"seconds": round(time.monotonic() - began, 1), "told": cases[-1:]}


def pictures(found: tuple[str, str], node: Node, shots: pathlib.Path):
    shots.mkdir(parents=True, exist_ok=True)
    for width, height, dark in ((1280, 800, False), (390, 800, False), (1280, 800, True), (390, 800, True)):
        with contextlib.closing(Browser(*found, width, height, dark)) as browser:
            browser.go(f"http://127.0.0.1:{node.port}/")
            time.sleep(12)
            for view in VIEWS:
                browser.go(f"http://127.0.0.1:{node.port}/#{view}")
                time.sleep(2.5)
                name = view.strip("/").split("/")[0] or "overview"
                browser.shot(shots / f"{name}-{width}{'-dark' if dark else ''}.png")


async def run(args, folder: pathlib.Path, servers: list) -> dict:
    fetches = folder / "fetches.jsonl"
    many = args.accounts > 1000
    write_fetches(args.accounts, args.accounts * (2 if many else 200 if args.shots else 12), fetches)
    server = NatsServer(folder, nats_server_path(args.nats_server))
    servers.append(server)
    server.start().wait_listening()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(Running("fast.py", "--port", port := free_port()))
        gone = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gone)
        threading.Thread(target=gone.serve_forever, daemon=True).start()
        stack.callback(gone.shutdown)
        limit = 'max = 1, in = "1h"' if many else 'max = 6, in = "20s"'
        node = Node("node-0", folder, args.tollgate, settings(port, gone.server_port, server.url, folder / "objects", limit), log_level="warn")
        servers.append(node)
        node.command_output("setup")
        node.command_output("publish", fetches, "--json")
        backlog = await stack.enter_async_context(Backlog(server.url))
        bad = [{"id": f"bad-{i}", "platform": "gone", "account": f"bad_{i}", "api": "report"} for i in range(2)]
        await backlog.publish(bad)
        node.start()
        await asyncio.to_thread(node.wait_ready)
        told = {"good": True, "accounts": args.accounts}
        if many:
            await asyncio.to_thread(until_known, node, args.accounts)
            told["questions_ms"] = await asyncio.to_thread(questions_take, node, args.accounts)
        found = chromium()
        if found is None:
            print("browser.py: no chromium with chromedriver here, so the page was not looked at", file=sys.stderr)
            told["page"] = "no browser"
        elif args.shots:
            await asyncio.to_thread(pictures, found, node, args.shots)
        else:
            with contextlib.closing(await asyncio.to_thread(Browser, *found)) as browser:
                if many:
                    told["open"] = await asyncio.to_thread(memory_while_open, browser, node, args.accounts)
                else:
                    told["page"] = await asyncio.to_thread(look_at_all, browser, node, args.accounts)
            if not many:
                await asyncio.to_thread(log_in_over_plain_http, found, folder, args, server.url)
        if not args.no_api and not args.shots:
            told["api"] = await asyncio.to_thread(judge_api, node, folder, args.examples)
        if (code := await asyncio.to_thread(node.stop, DRAINED_WITHIN)) != 0:
            raise Failure(f"the drained node's exit was {code}")
    return told


def until_known(node: Node, accounts: int):
    give_up_at = time.monotonic() + 120
    while (known := json.loads(node.get("/api/v1/accounts?most=1")[1]).get("matching", 0)) < accounts:
        node.must_live()
        if time.monotonic() > give_up_at:
            raise Failure(f"{known} of {accounts} accounts are known after 120 s")
        time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=40)
    parser.add_argument("--examples", type=int, default=10, help="made-up questions for each path of the API")
    parser.add_argument("--no-api", action="store_true", help="looks at the page only")
    parser.add_argument("--shots", type=pathlib.Path, help="only takes pictures, into this folder")
    add_servers(parser)
    run_in_folder(parser.parse_args(), run, "browser-")


if __name__ == "__main__":
    main()
