"""Stages answers with the real binary and reads the files back with DuckDB and pyarrow: types, partitions, and rows
that equal those of a straightforward computation in Python; then changes an answer, and breaks some.

    staged.py --tollgate target/debug/tollgate
"""

import argparse
import datetime
import decimal
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import duckdb
import pyarrow
import pyarrow.dataset
import zstandard

import offers

SEOUL = datetime.timezone(datetime.timedelta(hours=9))
UTC = datetime.timezone.utc
DAYS = ["2026-11-20", "2026-11-21"]

CONFIG = (
    offers.TABLE.replace('manifest = false\n', 'manifest = true\npartition = ["dt"]\nsort = ["price"]\n')
    + 'account = { type = "string", input = "account" }\n'
    + 'since = { type = "date", input = "params.since" }\n'
    + 'dt = { type = "date", input = "part.date" }\n'
    + """
[stage.lines]
from = "lines"
to = "staged/lines"
manifest = false
nulls = [""]
[stage.lines.columns]
n = { type = "int64", required = true }
amount = "decimal(9,3)"
"""
)


def computed(number, count, account, day):
    """The rows of one answer, as somebody would write it."""
    rows = []
    for offer in offers.offers(number, count)["data"]["offers"]:
        for leg in offer["itineraries"]:
            for one in leg["segments"]:
                departs = datetime.datetime.fromisoformat(one["departs"]).replace(tzinfo=SEOUL)
                rows.append((
                    offer["id"], decimal.Decimal(offer["price"]["total"]), offer["price"]["currency"], offer["seats"],
                    datetime.date.fromisoformat(offer["last_ticketing"]), offer["refundable"], leg["duration"],
                    one["carrier"], one["number"], one["from"], one["to"], departs.astimezone(UTC),
                    datetime.datetime.fromisoformat(one["arrives"]).astimezone(UTC), one["km"], account,
                    datetime.date(2026, 11, 19), datetime.date.fromisoformat(day),
                ))
    return rows


def put(root, number, count, account, day, packed):
    folder = root / "air" / "offers" / account / day / f"id-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    body = offers.answer(number, count)
    name, body = packed(body)
    (folder / name).write_bytes(body)
    manifest = {"version": 1, "queue": "q", "platform": "air", "api": "offers", "account": account,
                "params": {"since": "2026-11-19"}, "id": f"id-{number}", "seq": number, "objects": [],
                "http_status": 200, "attempts": 1, "pages": 1, "waited_ms": 0, "fetched_at": "2026-11-20T00:00:00Z"}
    (folder / "_manifest.json").write_text(json.dumps(manifest))


def packings():
    zst = zstandard.ZstdCompressor(level=1)
    while True:
        yield lambda body: ("00001.json.zst", zst.compress(body))
        yield lambda body: ("00001.json.gz", gzip.compress(body, 1))
        yield lambda body: ("00001.json", body)


def stage(args, root, table, code):
    command = [args.tollgate, "--config", str(root / "tollgate.toml"), "stage", table, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == code, (ran.returncode, ran.stdout, ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def by_pyarrow(folder):
    partitioning = pyarrow.dataset.partitioning(pyarrow.schema([("dt", pyarrow.date32())]), flavor="hive")
    table = pyarrow.dataset.dataset(folder, format="parquet", partitioning=partitioning).to_table()
    return table, sorted(zip(*(column.to_pylist() for column in table.columns)), key=repr)


def by_duckdb(folder, names):
    connection = duckdb.connect()
    source = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true, hive_types = {{'dt': DATE}})"
    types = connection.execute(f"SELECT DISTINCT typeof(departs), typeof(price) FROM {source}").fetchall()
    assert types == [("TIMESTAMP WITH TIME ZONE", "DECIMAL(12,2)")], types
    # As numbers: DuckDB needs one module more to make such times Python's.
    kept = ", ".join(f"epoch_us({name})" if name in ("departs", "arrives") else name for name in names)
    rows = connection.execute(f"SELECT {kept} FROM {source}").fetchall()
    start, times = datetime.datetime(1970, 1, 1, tzinfo=UTC), {names.index("departs"), names.index("arrives")}
    aware = [tuple(start + datetime.timedelta(microseconds=v) if at in times else v for at, v in enumerate(row))
             for row in rows]
    return sorted(aware, key=repr)


def same(got, wanted, who):
    assert len(got) == len(wanted), (who, len(got), len(wanted))
    for one, other in zip(got, wanted):
        assert one == other, (who, one, other)


def check(root, rows, who):
    folder = root / "staged" / "offers"
    table, got = by_pyarrow(folder)
    fields = {field.name: field for field in table.schema}
    assert str(fields["departs"].type) == "timestamp[us, tz=UTC]", fields["departs"]
    assert str(fields["price"].type) == "decimal128(12, 2)" and not fields["id"].nullable
    assert str(fields["last_ticketing"].type) == "date32[day]" and fields["seats"].nullable
    wanted = sorted(rows, key=repr)
    same(got, wanted, f"{who}, pyarrow")
    same(by_duckdb(folder, table.column_names), wanted, f"{who}, DuckDB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tollgate", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        (root / "tollgate.toml").write_text(
            f'[node]\ndata = "{root}/data"\n[store]\nurl = "file:{root}"\n' + CONFIG)
        packed = packings()
        rows = {}
        for number in range(12):
            account, day = ["act_1", "act/2"][number % 2].replace("/", "%2F"), DAYS[number % 3 % 2]
            put(root, number, 20, account, day, next(packed))
            rows[number] = computed(number, 20, account, day)
        told = stage(args, root, "offers", 0)
        all_rows = [row for number in rows for row in rows[number]]
        assert (told["inputs"], told["rows"], told["quarantined"]) == (12, len(all_rows), 0), told
        check(root, all_rows, "first")
        files = sorted((root / "staged").rglob("*.parquet"))
        stamps = [file.stat().st_mtime_ns for file in files]
        told = stage(args, root, "offers", 0)
        assert (told["inputs"], told["unchanged"]) == (0, 12), told
        assert stamps == [file.stat().st_mtime_ns for file in sorted((root / "staged").rglob("*.parquet"))]
        # One answer is collected again and has other rows; a new one comes; a third waits for its manifest.
        put(root, 3, 7, "act%2F2", DAYS[0], lambda body: ("00001.json.zst", zstandard.compress(body)))
        rows[3] = computed(3, 7, "act%2F2", DAYS[0])
        put(root, 50, 5, "act_1", DAYS[1], next(packed))
        rows[50] = computed(50, 5, "act_1", DAYS[1])
        late = root / "air/offers/act_1" / DAYS[1] / "id-51"
        late.mkdir(parents=True)
        (late / "00001.json").write_bytes(offers.answer(51, 3))
        # And one has a page less than before, as its manifest says.
        fewer = root / "air/offers/act_1" / DAYS[0] / "id-6"
        (fewer / "00001.json.zst").unlink()
        manifest = json.loads((fewer / "_manifest.json").read_text())
        (fewer / "_manifest.json").write_text(json.dumps(manifest | {"pages": 0, "empty": True}))
        rows[6] = []
        told = stage(args, root, "offers", 0)
        assert (told["inputs"], told["incomplete"]) == (12, 1), told
        check(root, [row for number in rows for row in rows[number]], "again")
        broken(args, root)
    print("staged: equal rows in DuckDB, pyarrow and Python")


def broken(args, root):
    """What does not fit lies in the quarantine, with where it came from."""
    folder = root / "lines"
    folder.mkdir()
    (folder / "a.ndjson").write_bytes(
        b'{"n":1,"amount":"1.5"}\n{"n":2,"amount":12345678901}\n{"n":\n{"amount":1}\n{"n":3,"amount":""}\n')
    (folder / "b.csv").write_bytes(b"n,amount\n4,1.125\n5,1.1255\n\xff,1\n6\n")
    told = stage(args, root, "lines", 1)
    assert (told["rows"], told["quarantined"]) == (3, 6), told
    entries = [json.loads(line) for file in (root / "staged/lines/_quarantine").iterdir()
               for line in file.read_text().splitlines()]
    places = [(entry["source"], entry["record"]) for entry in entries]
    assert sorted(places) == [("lines/a.ndjson", 2), ("lines/a.ndjson", 3), ("lines/a.ndjson", 4), ("lines/b.csv", 3),
                              ("lines/b.csv", 4), ("lines/b.csv", 5)], entries
    got = duckdb.sql(f"SELECT n, amount FROM '{root}/staged/lines/*.parquet' ORDER BY n").fetchall()
    assert got == [(1, decimal.Decimal("1.500")), (3, None), (4, decimal.Decimal("1.125"))], got
    # Mended, the quarantine is gone.
    (folder / "a.ndjson").write_bytes(b'{"n":1}\n')
    (folder / "b.csv").write_bytes(b"n,amount\n4,1.125\n")
    told = stage(args, root, "lines", 0)
    assert told["rows"] == 2 and not any((root / "staged/lines/_quarantine").iterdir()), told
    got = duckdb.sql(f"SELECT n FROM '{root}/staged/lines/*.parquet' ORDER BY n").fetchall()
    assert got == [(1,), (4,)], got


if __name__ == "__main__":
    sys.exit(main())
