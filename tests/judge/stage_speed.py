"""Measures `tollgate stage` beside pandas, DuckDB and Polars on the same files in one run: each in a process of its own,
in turns, three times; the rows of all are compared. Medians, but for the size of the files, which is that of the last. Not part of bin/test.

    pip install duckdb pyarrow pandas polars
    cargo build --release --features stage
    stage_speed.py --tollgate target/release/tollgate --place /dev/shm/speed --lines-gb 2
"""

import argparse
import glob
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

import offers

FLAT = ["id", "price", "currency", "seats", "last_ticketing", "refundable", "duration", "carrier", "number", "origin",
        "destination", "departs", "arrives", "km"]
LINES = ["id", "ts", "campaign", "clicks", "cost", "ctr", "device", "active"]

PANDAS_OFFERS = """
import asyncio, glob, json, sys
import pandas as pd, pyarrow as pa, pyarrow.parquet as pq
def rows(path):
    found = []
    for o in json.load(open(path))["data"]["offers"]:
        for leg in o["itineraries"]:
            for s in leg["segments"]:
                found.append((o["id"], o["price"]["total"], o["price"]["currency"], o["seats"], o["last_ticketing"],
                    o["refundable"], leg["duration"], s["carrier"], s["number"], s["from"], s["to"], s["departs"],
                    s["arrives"], s["km"]))
    return found
async def main(folder, to):
    gate = asyncio.Semaphore(20)
    async def one(path):
        async with gate:
            return await asyncio.to_thread(rows, path)
    parts = await asyncio.gather(*(one(path) for path in sorted(glob.glob(folder + "/*"))))
    frame = pd.DataFrame([row for part in parts for row in part], columns=NAMES)
    frame["seats"] = frame["seats"].astype("Int32")
    frame["last_ticketing"] = pd.to_datetime(frame["last_ticketing"]).dt.date
    frame["departs"] = pd.to_datetime(frame["departs"]).dt.tz_localize("Asia/Seoul").dt.tz_convert("UTC")
    frame["arrives"] = pd.to_datetime(frame["arrives"], utc=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    at = table.schema.get_field_index("price")
    table = table.set_column(at, "price", table["price"].cast(pa.decimal128(12, 2)))
    pq.write_table(table, to + "/part.parquet", compression="zstd")
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""
PANDAS_LINES = """
import glob, sys
import pandas as pd, pyarrow as pa, pyarrow.parquet as pq
writer = None
for path in sorted(glob.glob(sys.argv[1] + "/*")):
    for frame in pd.read_json(path, lines=True, chunksize=200_000, dtype={"cost": str}, precise_float=True):
        frame["ts"] = pd.to_datetime(frame["ts"], utc=True)
        table = pa.Table.from_pandas(frame[NAMES], preserve_index=False)
        table = table.set_column(4, "cost", table["cost"].cast(pa.decimal128(12, 4)))
        writer = writer or pq.ParquetWriter(sys.argv[2] + "/part.parquet", table.schema, compression="zstd")
        writer.write_table(table)
writer.close()
"""
DUCK_OFFERS = """
import sys, duckdb
c = duckdb.connect()
c.execute("SET TimeZone='UTC'; SET preserve_insertion_order=false")
c.execute(f'''COPY (
 WITH d AS (SELECT unnest(data.offers) o FROM read_json('{sys.argv[1]}/*', columns={{'data': 'STRUCT(offers STRUCT(id VARCHAR,
   price STRUCT(total VARCHAR, currency VARCHAR), seats INTEGER, last_ticketing DATE, refundable BOOLEAN,
   itineraries STRUCT(duration BIGINT, segments STRUCT(carrier VARCHAR, number INTEGER, "from" VARCHAR, "to" VARCHAR,
   departs TIMESTAMP, arrives TIMESTAMPTZ, km DOUBLE)[])[])[])'}}, maximum_object_size=67108864)),
 l AS (SELECT o, unnest(o.itineraries) i FROM d), s AS (SELECT o, i, unnest(i.segments) s FROM l)
 SELECT o.id AS id, o.price.total::DECIMAL(12,2) AS price, o.price.currency AS currency, o.seats AS seats,
  o.last_ticketing AS last_ticketing, o.refundable AS refundable, i.duration AS duration, s.carrier AS carrier,
  s.number AS number, s."from" AS origin, s."to" AS destination,
  (s.departs - INTERVAL 9 HOUR)::TIMESTAMPTZ AS departs, s.arrives AS arrives, s.km AS km FROM s
) TO '{sys.argv[2]}/part.parquet' (FORMAT parquet, COMPRESSION zstd)''')
"""
DUCK_LINES = """
import sys, duckdb
c = duckdb.connect()
c.execute("SET TimeZone='UTC'; SET preserve_insertion_order=false")
c.execute(f'''COPY (SELECT id, ts, campaign, clicks, cost, ctr, device, active FROM read_json('{sys.argv[1]}/*',
 format='newline_delimited', columns={{id:'BIGINT', ts:'TIMESTAMPTZ', campaign:'VARCHAR', clicks:'INTEGER',
 cost:'DECIMAL(12,4)', ctr:'DOUBLE', device:'VARCHAR', active:'BOOLEAN'}}))
 TO '{sys.argv[2]}/part.parquet' (FORMAT parquet, COMPRESSION zstd)''')
"""
POLARS_OFFERS = """
import glob, io, sys
import polars as pl
seg = pl.Struct({"carrier": pl.String, "number": pl.Int32, "from": pl.String, "to": pl.String, "departs": pl.String,
  "arrives": pl.String, "km": pl.Float64})
offer = pl.Struct({"id": pl.String, "price": pl.Struct({"total": pl.String, "currency": pl.String}), "seats": pl.Int32,
  "last_ticketing": pl.String, "refundable": pl.Boolean,
  "itineraries": pl.List(pl.Struct({"duration": pl.Int64, "segments": pl.List(seg)}))})
schema = {"data": pl.Struct({"offers": pl.List(offer)})}
# One document is one line, so all files are read as NDJSON in one go: faster than read_json file by file.
frame = pl.scan_ndjson(sorted(glob.glob(sys.argv[1] + "/*")), schema=schema).select(
  pl.col("data").struct.field("offers")).explode("offers").unnest("offers").explode("itineraries").unnest("itineraries"
  ).explode("segments").unnest("segments").select(
  "id", pl.col("price").struct.field("total").str.to_decimal(scale=2).cast(pl.Decimal(12, 2)).alias("price"),
  pl.col("price").struct.field("currency"), "seats", pl.col("last_ticketing").str.to_date("%Y-%m-%d"), "refundable",
  "duration", "carrier", "number", pl.col("from").alias("origin"), pl.col("to").alias("destination"),
  pl.col("departs").str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us").dt.replace_time_zone("Asia/Seoul"
    ).dt.convert_time_zone("UTC"),
  pl.col("arrives").str.to_datetime("%Y-%m-%dT%H:%M:%S%z", time_unit="us").dt.convert_time_zone("UTC"), "km")
frame.sink_parquet(sys.argv[2] + "/part.parquet", compression="zstd")
"""
POLARS_LINES = """
import glob, sys
import polars as pl
schema = {"id": pl.Int64, "ts": pl.String, "campaign": pl.String, "clicks": pl.Int32, "cost": pl.String,
  "ctr": pl.Float64, "device": pl.String, "active": pl.Boolean}
pl.scan_ndjson(sorted(glob.glob(sys.argv[1] + "/*")), schema=schema).with_columns(
  pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"),
  pl.col("cost").str.to_decimal(scale=4).cast(pl.Decimal(12, 4))).sink_parquet(
  sys.argv[2] + "/part.parquet", compression="zstd")
"""


TABLES = offers.TABLE.replace('from = "air/offers"\nto = "staged/offers"', 'from = "offers"\nto = "out/stage/offers"') + """
[stage.lines]
from = "lines"
to = "out/stage/lines"
manifest = false
[stage.lines.columns]
id = "int64"
ts = "timestamp"
campaign = "string"
clicks = "int32"
cost = "decimal(12,4)"
ctr = "float64"
device = "string"
active = "bool"
"""


def make_offers(folder, files):
    folder.mkdir(parents=True)
    total = 0
    for number in range(files):
        body = offers.answer(number, 175, legs=1, segments=2)
        (folder / f"{number:05d}.json").write_bytes(body)
        total += len(body)
    return files * 350, total


def line_of(draw):
    """All of a line but its beginning, the id."""
    return (
        f'"ts":"2026-11-{draw.randrange(1, 31):02d}T{draw.randrange(24):02d}:{draw.randrange(60):02d}:00Z",'
        f'"campaign":"campaign-{draw.randrange(10_000)}","clicks":{draw.randrange(5_000)},'
        f'"cost":"{draw.randrange(10_000_000) / 10_000:.4f}","ctr":{draw.random():.9f},'
        f'"device":"{draw.choice(["pc", "mobile", "tablet"])}","active":{draw.choice(["true", "false"])},'
        f'"note":"{"x" * draw.randrange(60)}"}}\n'
    )


def make_lines(folder, size, drawn=False):
    """Lines of a report: each drawn for itself, or a block of them over and over with other ids."""
    folder.mkdir(parents=True)
    draw = random.Random(1)
    block = [] if drawn else [line_of(draw) for _ in range(50_000)]
    rows = total = 0
    with open(folder / "lines.ndjson", "w") as out:
        while total < size:
            lines = block or (line_of(draw) for _ in range(50_000))
            total += out.write("".join(f'{{"id":{rows + at},{line}' for at, line in enumerate(lines)))
            rows += 50_000
    return rows, total


def measured(command, to):
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, command
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def sums(to, names):
    import duckdb
    c = duckdb.connect()
    c.execute("SET TimeZone='UTC'")
    kept = ", ".join(names)
    return c.execute(f"SELECT count(*), bit_xor(hash({kept})), sum(hash({kept}) % 1000003) "
                     f"FROM read_parquet('{to}/**/*.parquet')").fetchone()


def compare(name, folder, rows, size, who, place, names, times):
    took = {one: [] for one in who}
    checks, files = {}, {}
    for _ in range(times):
        for one, command in who.items():
            to = place / "out" / one
            told = [] if one == "stage" else [str(folder), str(to)]
            took[one].append(measured([*command, *told], to))
            checks[one] = sums(to, names)
            files[one] = sum(path.stat().st_size for path in to.rglob("*.parquet"))
            shutil.rmtree(to)
    assert len(set(checks.values())) == 1, checks
    print(f"{name}: {rows:,} rows, {size / 1e6:.0f} MB; equal rows of all; load {os.getloadavg()}")
    for one, all_took in took.items():
        seconds, cpu, rss = (statistics.median(values) for values in zip(*all_took))
        print(f"  {one:8} {rows / seconds:12,.0f} rows/s {size / 1e6 / seconds:7.0f} MB/s  {seconds:6.2f} s "
              f"{cpu:6.2f} s CPU  {rss:6.0f} MB  files {files[one] / 1e6:4.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tollgate", required=True)
    parser.add_argument("--place", type=pathlib.Path, required=True)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--lines-gb", type=float, default=2)
    parser.add_argument("--drawn", action="store_true", help="each line for itself, else a block of 50,000 again and again")
    parser.add_argument("--only", choices=["offers", "lines"], help="one kind of files")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--without", default="", help="such as pandas")
    args = parser.parse_args()

    def python(text, names):
        return [sys.executable, "-c", f"NAMES = {names!r}\n{text}"]

    args.place.mkdir(parents=True)
    config = args.place / "tollgate.toml"
    config.write_text(f'[node]\ndata = "{args.place}/data"\n[store]\nurl = "file:{args.place}"\n{TABLES}')
    try:
        kinds = [("offers", FLAT, PANDAS_OFFERS, DUCK_OFFERS, POLARS_OFFERS),
                 ("lines", LINES, PANDAS_LINES, DUCK_LINES, POLARS_LINES)]
        for kind, names, pandas, duck, polars in kinds:
            if args.only not in (None, kind):
                continue
            folder = args.place / kind
            shutil.rmtree(folder, ignore_errors=True)
            made = (make_offers(folder, args.files) if kind == "offers"
                    else make_lines(folder, args.lines_gb * 1e9, args.drawn))
            who = {"stage": [args.tollgate, "--config", str(config), "stage", kind], "polars": python(polars, names), "duckdb": python(duck, names),
                   "pandas": python(pandas, names)}
            who = {one: command for one, command in who.items() if one not in args.without.split(",")}
            compare(kind, folder, *made, who, args.place, names, args.times)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(args.place, ignore_errors=True)


if __name__ == "__main__":
    main()
