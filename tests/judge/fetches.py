"""Writes fetches as JSON Lines: so many accounts, so many fetches each."""

import argparse
import datetime
import json
import sys


def fetches(args):
    """One account after the other, or all accounts in turn."""
    pairs = ((a, n) for a in range(args.accounts) for n in range(args.fetches))
    if args.in_turn:
        pairs = ((a, n) for n in range(args.fetches) for a in range(args.accounts))
    extra = dict(param.split("=", 1) for param in args.param)
    due = {}
    if args.due_in:
        due_at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=args.due_in)
        due = {"not_before": due_at.isoformat().replace("+00:00", "Z")}
    for a, n in pairs:
        account = f"{args.prefix}{a:05d}"
        yield {
            "id": f"{account}-{n:05d}",
            "platform": args.platform,
            "account": account,
            "api": args.api,
            "params": {"n": str(n), **extra},
            **due,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--fetches", type=int, default=10, help="per account")
    parser.add_argument("--platform", default="judge")
    parser.add_argument("--api", default="report")
    parser.add_argument("--prefix", default="act_", help="what accounts begin with")
    parser.add_argument("--param", action="append", default=[], help="a further parameter, NAME=VALUE")
    parser.add_argument("--in-turn", action="store_true", help="accounts take turns")
    parser.add_argument("--due-in", type=float, default=0, help="seconds from now until all are due, at one moment")
    args = parser.parse_args()
    for fetch in fetches(args):
        sys.stdout.write(json.dumps(fetch, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
