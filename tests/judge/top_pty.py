"""Drives `tollgate top` in a terminal of this script's own, as somebody at the keys would, and reads what is on the screen.

A provider of this script's own answers slowly; `run` collects from it meanwhile. Sizes, keys, an open account, finding, what is said
of a node that ends, and that the terminal is as it was after `q`, Ctrl-C and SIGTERM. With `--nats-server` also `serve`, of which an
account is held and let go on. The last line is one JSON object; exit 1 at the first thing that is not as it should be.

    top_pty.py
    top_pty.py --nats-server target/judge/bin/nats-server
"""

import argparse
import fcntl
import http.server
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

from servers import NatsServer

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# Patience for something to be on the screen, and for a program to end, in seconds.
SHOWS_WITHIN = 30.0
ENDS_WITHIN = 20.0
SEQUENCE = re.compile(r"\x1b\[([?>]?)([0-9;]*)([A-Za-z])|\x1b[78=>]")


class Failure(Exception):
    pass


class Screen:
    """As much of a terminal as is needed to read what a program draws on it."""

    def __init__(self, columns: int, lines: int):
        self.columns, self.lines = columns, lines
        self.alternate = False
        self.cursor_shown = True
        self.left = ""
        self.clear()

    def clear(self):
        self.cells = [[" "] * self.columns for _ in range(self.lines)]
        self.line = self.column = 0

    def feed(self, text: str):
        text = self.left + text
        place = 0
        while place < len(text):
            if text[place] == "\x1b":
                found = SEQUENCE.match(text, place)
                if not found:
                    break
                self.obey(*found.groups())
                place = found.end()
                continue
            self.put(text[place])
            place += 1
        self.left = text[place:]

    def put(self, sign: str):
        if sign == "\r":
            self.column = 0
        elif sign == "\n":
            self.line = min(self.line + 1, self.lines - 1)
        elif self.line < self.lines and self.column < self.columns:
            self.cells[self.line][self.column] = sign
            self.column += 1

    def obey(self, private, numbers, letter):
        if private and letter in "hl":
            if numbers == "1049":
                self.alternate = letter == "h"
            if numbers == "25":
                self.cursor_shown = letter == "h"
        elif letter == "H":
            line, column = (numbers.split(";") + ["", ""])[:2]
            self.line, self.column = int(line or 1) - 1, int(column or 1) - 1
        elif letter == "J":
            self.clear()

    def text(self) -> str:
        return "\n".join("".join(line).rstrip() for line in self.cells)


class Top:
    """`tollgate top` in a terminal of so many columns and lines."""

    def __init__(self, tollgate: str, folder: pathlib.Path, size=(100, 30), options=()):
        self.master, self.slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self.slave)
        environment = {**os.environ, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [tollgate, "top", "--every", "0.5", *options],
            cwd=folder,
            env=environment,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def resize(self, columns: int, lines: int):
        self.screen = Screen(columns, lines)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if hasattr(self, "process"):
            self.process.send_signal(signal.SIGWINCH)

    def read(self, within: float):
        ready, _, _ = select.select([self.master], [], [], within)
        if ready:
            self.screen.feed(os.read(self.master, 65536).decode(errors="replace"))

    def shows(self, *wanted: str, without: str = ""):
        """Waits until all of it is on the screen."""
        until = time.monotonic() + SHOWS_WITHIN
        while time.monotonic() < until:
            text = self.screen.text()
            if all(re.search(part, text) for part in wanted) and not (without and re.search(without, text)):
                return text
            if self.process.poll() is not None:
                break
            self.read(0.1)
        raise Failure(f"not on the screen: {wanted}, without {without!r}:\n{self.screen.text()}")

    def press(self, keys: str):
        os.write(self.master, keys.encode())

    def ended(self, code: int = 0):
        """Waits for its end, and looks whether the terminal is as it was."""
        until = time.monotonic() + ENDS_WITHIN
        while self.process.poll() is None:
            if time.monotonic() > until:
                self.process.kill()
                raise Failure("it does not end")
            self.read(0.1)
        self.read(0.1)
        if self.process.returncode != code:
            raise Failure(f"ended with {self.process.returncode}:\n{self.screen.text()}")
        if termios.tcgetattr(self.slave) != self.before:
            raise Failure("the terminal has other settings than before")
        if self.screen.alternate or not self.screen.cursor_shown:
            raise Failure("the terminal is left on its other screen, or without a cursor")
        os.close(self.master)
        os.close(self.slave)


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def config(port: int, nats: str = "") -> str:
    return (
        f'[store]\nurl = "file:./objects"\n{nats}'
        f'[platforms.shop]\nbase_url = "http://127.0.0.1:{port}/"\n'
        '[platforms.shop.limits]\nspacing = { per = ["account"], every = "2s" }\n'
        'hourly = { per = ["account"], max = 1000, in = "1h" }\n'
        '[platforms.shop.apis.report]\npath = "report/{n}"\n'
    )


def fetches(accounts: int, most: int) -> str:
    """The first account has the most work, the last the least."""
    lines = []
    for number in range(accounts):
        for n in range(max(2, most - number)):
            fetch = {"platform": "shop", "account": f"acc-{number:02}", "api": "report", "id": str(n)}
            lines.append(json.dumps({**fetch, "params": {"n": str(n)}}))
    return "\n".join(lines) + "\n"


def local(tollgate: str, folder: pathlib.Path, port: int):
    (folder / "tollgate.toml").write_text(config(port))
    (folder / "fetches.jsonl").write_text(fetches(30, 200))
    piped = subprocess.run([tollgate, "top"], cwd=folder, capture_output=True, text=True)
    if piped.returncode != 2 or "status --json" not in piped.stderr:
        raise Failure(f"without a terminal: {piped}")
    with (folder / "run.log").open("w") as log:
        node = subprocess.Popen([tollgate, "run", "fetches.jsonl"], cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + SHOWS_WITHIN
        while not (folder / "tollgate-data/state/control.sock").exists() and time.monotonic() < until:
            time.sleep(0.1)
        top = Top(tollgate, folder)
        top.shows("1 node", r"calls/s of [0-9.]+ allowed", r"WAITING▼", r"30 accounts", "acc-00", "spacing")
        text = top.shows(r"shop/acc-00 ")
        first = next(line for line in text.splitlines() if "shop/" in line)
        if "acc-00" not in first:
            raise Failure(f"who waits most is not first:\n{text}")
        top.press("n")
        top.shows("ACCOUNT▼")
        top.press("r")
        top.shows("ACCOUNT▲", r"▲.*\n[^\n]*acc-29")
        top.press("/acc-07\r")
        top.shows("1 accounts with `acc-07`", "acc-07", without="acc-08")
        top.press("\r")
        top.shows("shop/acc-07", "spacing", "hourly", "last answers:", "next calls:")
        top.press("q")
        top.shows("WAITING")
        top.press("?")
        top.shows("the other way round")
        top.press("x\x1b")
        top.shows("30 accounts", without="the other way round")
        top.press("p")
        top.shows("Hold shop/acc-")
        top.press("y")
        top.shows("a hold is kept on NATS")
        top.resize(40, 12)
        top.shows("WAITING", "acc-", without="WAITS FOR")
        top.press("q")
        top.ended()

        top = Top(tollgate, folder)
        top.shows("30 accounts")
        top.press("\x03")
        top.ended()

        top = Top(tollgate, folder)
        top.shows("30 accounts")
        top.process.terminate()
        top.ended()

        # Of a node that has ended the folder is shown, and one that starts is seen.
        top = Top(tollgate, folder)
        top.shows("1 node")
        node.terminate()
        node.wait(ENDS_WITHIN)
        top.shows("not running", "30 accounts")
        with (folder / "run.log").open("a") as log:
            node = subprocess.Popen([tollgate, "run"], cwd=folder, stdout=log, stderr=log)
        top.shows("1 node", "30 accounts")
        top.press("q")
        top.ended()
    finally:
        node.terminate()
        node.wait(ENDS_WITHIN)


def cluster(tollgate: str, folder: pathlib.Path, port: int, nats_path: str):
    nats = NatsServer(folder, nats_path)
    nats.start()
    nats.wait_listening()
    node = None
    try:
        (folder / "tollgate.toml").write_text(config(port, f'[nats]\nurl = "nats://127.0.0.1:{nats.port}"\n'))
        of_slash = json.loads(fetches(1, 2).splitlines()[0]) | {"account": "acc-00/report"}
        of_slash = [json.dumps(of_slash | {"id": str(n)}) for n in range(200)]
        (folder / "fetches.jsonl").write_text(fetches(5, 200) + "\n".join(of_slash) + "\n")
        for command in (["setup"], ["publish", "fetches.jsonl"]):
            subprocess.run([tollgate, *command], cwd=folder, check=True, capture_output=True)
        with (folder / "serve.log").open("w") as log:
            node = subprocess.Popen([tollgate, "serve"], cwd=folder, stdout=log, stderr=log)
        top = Top(tollgate, folder, (120, 30))
        top.shows("1 node", "6 accounts", "acc-03")
        top.press("n/acc-03\r")
        top.shows("1 accounts with")
        top.press("p")
        top.shows("Hold shop/acc-03")
        top.press("y")
        top.shows("shop/acc-03 is held until it is resumed")
        top.shows("operator")
        top.press("p")
        top.shows("End the hold of shop/acc-03")
        top.press("y")
        top.shows("shop/acc-03 goes on")
        top.shows("acc-03", without="operator")
        # Its name ends as the api is called, and there is an account of the part before: it is held itself.
        top.press("\x1b")
        top.shows("6 accounts")
        top.press("/acc-00/report\r")
        top.shows("1 accounts with `acc-00/report`")
        top.press("p")
        top.shows("Hold shop/acc-00/report")
        top.press("y")
        top.shows("shop/acc-00/report is held until it is resumed")
        top.shows("operator")
        top.press("q")
        top.ended()
    finally:
        if node:
            node.terminate()
            node.wait(ENDS_WITHIN)
        nats.stop()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tollgate", default=str(ROOT / "target/debug/tollgate"))
    args.add_argument("--nats-server", help="also looks at a node on NATS")
    args = args.parse_args()
    tollgate = str(pathlib.Path(args.tollgate).absolute())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="tollgate-top-") as folder:
            local(tollgate, pathlib.Path(folder), server.server_port)
        if args.nats_server:
            with tempfile.TemporaryDirectory(prefix="tollgate-top-") as folder:
                path = str(pathlib.Path(args.nats_server).absolute())
                cluster(tollgate, pathlib.Path(folder), server.server_port, path)
    except Failure as failure:
        sys.exit(f"top: {failure}")
    took = round(time.monotonic() - begun, 1)
    print(json.dumps({"passed": True, "on_nats": bool(args.nats_server), "took_s": took}))


if __name__ == "__main__":
    main()
