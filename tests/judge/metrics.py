"""Reads Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/), as far as needed."""

import collections
import re

SAMPLE = re.compile(r'^([A-Za-z_:][\w:]*)_bucket\{([^}]*)\} ([0-9.eE+]+)', re.MULTILINE)


def latencies(text: str, word: str) -> dict:
    """Of every histogram in seconds whose name has the word: its count and the buckets, in ms, in which p50 and p99
    lie. Labels other than `le` are summed over.
    """
    families = collections.defaultdict(lambda: collections.defaultdict(float))
    for name, labels, value in SAMPLE.findall(text):
        bound = re.search(r'(?:^|,)le="([^"]*)"', labels)
        if word in name and bound:
            families[name][float(bound[1])] += float(value)
    found = {}
    for name, counts in families.items():
        bounds = sorted(counts)
        total = counts[bounds[-1]]
        if total == 0:
            continue
        at_most = {
            f"p{share}_at_most": next(b for b in bounds if counts[b] >= total * share / 100) * 1000 for share in (50, 99)
        }
        # JSON has no infinity.
        found[name] = {"count": int(total), **{k: None if v == float("inf") else v for k, v in at_most.items()}}
    return found
