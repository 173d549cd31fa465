#!/usr/bin/env python3
"""A provider that checks who asks: OAuth 2.0 with rotating refresh tokens, keyed hashes, OAuth 1.0a, JWT, Basic.

Only Python's standard library, and `openssl` for signatures of statements. It answers on a port of its own, which it
prints, and says at /counts what it has seen. Shares no code with Tollgate.

  credentials.py [--life SECONDS] [--token-delay SECONDS] [--drop N] [--public-es PEM] [--public-rs PEM]

--drop: so many answers of the token endpoint are lost, after the refresh token was replaced. A second use of a replaced
refresh token ends its whole family.
"""
import argparse
import base64
import hashlib
import hmac
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLIENT, SECRET = "the-client", "s3cr3t-client-Kx81"
FIRST_REFRESH = "s3cr3t-refresh-first-Uz02"
HMAC_ID, HMAC_KEY = "the-api-key", "s3cr3t-hmac-Lw77"
OAUTH1 = {"consumer": "the-consumer", "consumer_secret": "s3cr3t-consumer-Pq10",
          "token": "s3cr3t-token1-Re54", "token_secret": "s3cr3t-toksec-Yu66"}
STATIC = {"bearer": "s3cr3t-bearer-Df50", "header": "s3cr3t-header-Gh61", "query": "s3cr3t/query+Jk72=",
          "user": "the-user", "password": "s3cr3t-password-Zx83"}
WINDOW_S = 300

lock = threading.RLock()
options = None
family = {"refresh": FIRST_REFRESH, "old": set(), "dead": False}
access = {}  # token -> (until, issued, grant)
seen = {"issued": [], "reuse": 0, "refused": 0, "served": 0, "by": {}, "why": {}, "auth_elsewhere": 0, "tokens": [],
        "nonces": set(), "overlap": 0, "asking": 0, "invalidated": 0}


def encode(text):
    return urllib.parse.quote(text, safe="-._~")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, why):
        with lock:
            seen["refused"] += 1
            seen["why"][why] = seen["why"].get(why, 0) + 1
        self.answer(status, {"error": why})

    def serve(self):
        name = self.path.split("?")[0].split("/")[1]
        with lock:
            seen["served"] += 1
            seen["by"][name] = seen["by"].get(name, 0) + 1
        self.answer(200, {"ok": True})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.split("?")[0] == "/token":
            return self.token(dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True)))
        if self.path == "/kill-tokens":
            with lock:
                seen["invalidated"] += len(access)
                access.clear()
            return self.answer(200, {})
        self.refuse(404, "no such place")

    def token(self, form):
        with lock:
            seen["asking"] += 1
            seen["overlap"] = max(seen["overlap"], seen["asking"])
        try:
            time.sleep(options.token_delay)
            self.give(form)
        finally:
            with lock:
                seen["asking"] -= 1

    def give(self, form):
        grant = form.get("grant_type")
        client, secret = form.get("client_id"), form.get("client_secret")
        authorization = self.headers.get("Authorization", "")
        if authorization.startswith("Basic "):
            pair = base64.b64decode(authorization[6:]).decode().split(":", 1)
            client, secret = map(urllib.parse.unquote_plus, pair)
        drop = False
        with lock:
            if grant == "urn:ietf:params:oauth:grant-type:jwt-bearer":
                claims = verified(form.get("assertion", ""))
                if claims is None or claims.get("iss") != "the-issuer":
                    return self.answer(400, {"error": "invalid_grant", "error_description": "bad assertion"})
            elif (client, secret) != (CLIENT, SECRET):
                return self.answer(401, {"error": "invalid_client", "error_description": f"{secret} is wrong"})
            given = {"token_type": "Bearer", "expires_in": options.life}
            if grant == "refresh_token":
                refresh = form.get("refresh_token")
                if refresh in family["old"]:
                    seen["reuse"] += 1
                    family["dead"] = True
                if family["dead"] or refresh != family["refresh"]:
                    why = f"the refresh token {refresh} is not the one in use"
                    return self.answer(400, {"error": "invalid_grant", "error_description": why})
                family["old"].add(refresh)
                family["refresh"] = given["refresh_token"] = "s3cr3t-refresh-" + secrets.token_hex(8)
            elif grant not in ("client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer"):
                return self.answer(400, {"error": "unsupported_grant_type"})
            token = "s3cr3t-access-" + secrets.token_hex(8)
            given["access_token"] = token
            now = time.time()
            access[token] = (now + options.life, now, grant)
            seen["issued"].append(now)
            seen["tokens"] += [token] + ([given["refresh_token"]] if "refresh_token" in given else [])
            if options.drop > 0:
                options.drop, drop = options.drop - 1, True
        if drop:
            self.close_connection = True
            return self.connection.close()
        self.answer(200, given)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
        place = url.path.split("/")[1]
        if place == "counts":
            with lock:
                return self.answer(200, {**seen, "nonces": len(seen["nonces"]), "dead": family["dead"]})
        if place == "leak":
            # As a proxy does that shows the request which it refuses.
            said = self.requestline + "\n" + str(self.headers)
            return self.answer(400, said.encode(), "text/plain")
        if place == "elsewhere":
            if self.headers.get("Authorization") or any("s3cr3t" in value for value in self.headers.values()):
                with lock:
                    seen["auth_elsewhere"] += 1
                return self.refuse(400, "credentials at the wrong host")
            return self.serve()
        why = getattr(self, "check_" + place, lambda *_: "no such place")(url, query)
        return self.refuse(401 if place == "api" else 403, why) if why else self.serve()

    def check_api(self, _url, _query):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with lock:
            until = access.get(token, (0, 0, 0))[0]
        return None if time.time() < until else "no such token, or it is over"

    def check_hmac(self, url, _query):
        stamp = self.headers.get("X-Timestamp", "0")
        if abs(time.time() * 1000 - int(stamp)) > WINDOW_S * 1000:
            return "the time is out of the window"
        if self.headers.get("X-API-KEY") != HMAC_ID or not self.headers.get("X-Customer"):
            return "no such key or customer"
        text = f"{stamp}.{self.command}.{url.path}"
        wanted = base64.b64encode(hmac.new(HMAC_KEY.encode(), text.encode(), hashlib.sha256).digest()).decode()
        return None if hmac.compare_digest(wanted, self.headers.get("X-Signature", "")) else "bad signature"

    def check_oauth1(self, url, query):
        header = self.headers.get("Authorization", "")
        if not header.startswith("OAuth "):
            return "no OAuth header"
        own = dict(part.strip().split("=", 1) for part in header[6:].split(","))
        own = {name: urllib.parse.unquote(value.strip('"')) for name, value in own.items()}
        signature = own.pop("oauth_signature", "")
        if own.get("oauth_consumer_key") != OAUTH1["consumer"] or own.get("oauth_token") != OAUTH1["token"]:
            return "no such consumer or token"
        if abs(time.time() - int(own["oauth_timestamp"])) > WINDOW_S:
            return "the time is out of the window"
        with lock:
            if own["oauth_nonce"] in seen["nonces"]:
                return "the nonce was used before"
            seen["nonces"].add(own["oauth_nonce"])
        pairs = sorted((encode(n), encode(v)) for n, v in [*query, *own.items()])
        pairs = "&".join(f"{name}={value}" for name, value in pairs)
        base = f"http://{self.headers['Host']}{url.path}"
        text = "&".join([self.command, encode(base), encode(pairs)])
        key = encode(OAUTH1["consumer_secret"]) + "&" + encode(OAUTH1["token_secret"])
        hash_of = hashlib.sha256 if own["oauth_signature_method"] == "HMAC-SHA256" else hashlib.sha1
        wanted = base64.b64encode(hmac.new(key.encode(), text.encode(), hash_of).digest()).decode()
        return None if hmac.compare_digest(wanted, signature) else "bad signature"

    def check_basic(self, _url, _query):
        pair = f"{STATIC['user']}:{STATIC['password']}".encode()
        return None if self.headers.get("Authorization") == "Basic " + base64.b64encode(pair).decode() else "bad pair"

    def check_bearer(self, _url, _query):
        return None if self.headers.get("Authorization") == "Bearer " + STATIC["bearer"] else "bad bearer"

    def check_header(self, _url, _query):
        return None if self.headers.get("X-Key") == STATIC["header"] else "bad header"

    def check_query(self, _url, query):
        return None if dict(query).get("key") == STATIC["query"] else "bad query"

    def check_jwt(self, _url, _query):
        claims = verified(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if claims is None:
            return "bad statement"
        good = claims.get("iss") == "the-issuer" and claims["iat"] - 5 <= time.time() < claims["exp"]
        return None if good else "the statement is over, or another's"


def verified(text):
    """The claims of a statement whose signature `openssl` finds good, by the public key that was given."""
    def part(text):
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    try:
        signed, signature = text.rsplit(".", 1)
        header, claims = (json.loads(part(piece)) for piece in signed.split("."))
        signature = part(signature)
    except (ValueError, KeyError):
        return None
    public = {"ES256": options.public_es, "RS256": options.public_rs}.get(header.get("alg"))
    if not public:
        return None
    if header["alg"] == "ES256":
        def number(raw):
            raw = raw.lstrip(b"\0") or b"\0"
            raw = b"\0" + raw if raw[0] & 0x80 else raw
            return b"\x02" + bytes([len(raw)]) + raw
        if len(signature) != 64:
            return None
        both = number(signature[:32]) + number(signature[32:])
        signature = b"\x30" + bytes([len(both)]) + both
    with tempfile.NamedTemporaryFile() as of:
        of.write(signature)
        of.flush()
        done = subprocess.run(["openssl", "dgst", "-sha256", "-verify", public, "-signature", of.name],
                              input=signed.encode(), capture_output=True, check=False)
    return claims if done.returncode == 0 else None


def main():
    global options
    parser = argparse.ArgumentParser()
    parser.add_argument("--life", type=int, default=3600)
    parser.add_argument("--token-delay", type=float, default=0.0)
    parser.add_argument("--drop", type=int, default=0)
    parser.add_argument("--public-es", default="")
    parser.add_argument("--public-rs", default="")
    options = parser.parse_args()
    ThreadingHTTPServer.request_queue_size = 256
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    # Ends with whoever started it.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
