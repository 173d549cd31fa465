"""The bytes that the judges answer with: pure functions of what was asked for."""

import hashlib


def judge_body(account: str, path_query: str, length: int) -> bytes:
    """The body of judge_limits.py: a JSON string of exactly `length` bytes (at least 2).

    Between its quotes: the lower-case hex of SHA-256 over `account`, a line feed and `path_query` (both as
    they came over the wire), repeated and cut.
    """
    inner = max(length, 2) - 2
    digest = hashlib.sha256(f"{account}\n{path_query}".encode()).hexdigest().encode()
    return b'"' + (digest * (inner // len(digest) + 1))[:inner] + b'"'


def nginx_body(account: str, path_query: str) -> bytes:
    """The body of nginx.py: account and request as JSON. Neither may need escaping there."""
    return f'{{"account":"{account}","request":"{path_query}"}}\n'.encode()


def page_body(account: str, path_query: str, length: int, pages: int) -> bytes:
    """The body of one of several pages of judge_limits.py: an object that says how many there are, with `judge_body`."""
    return b'{"pages":%d,"data":%b}' % (pages, judge_body(account, path_query, length))
