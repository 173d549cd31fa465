"""Flight offers as an API answers them: nested lists, prices as text, times without a zone. The same for a seed."""

import json
import random

AIRPORTS = ["ICN", "NRT", "HND", "KIX", "CDG", "FRA", "LHR", "JFK", "LAX", "SIN", "BKK", "HKG"]
CARRIERS = ["KE", "OZ", "JL", "NH", "AF", "LH", "BA", "SQ", "TG", "CX"]


def offers(number, count, legs=1, segments=2):
    """One answer of `count` offers, each of `legs` x `segments` rows."""
    draw = random.Random(number)
    found = []
    for at in range(count):
        found.append({
            "id": f"{number:05d}-{at:05d}",
            "price": {"total": f"{draw.randrange(10_000, 900_000) / 100:.2f}", "currency": "KRW",
                      "taxes": [{"code": "YQ", "amount": draw.randrange(99)}]},
            "seats": draw.choice([None, 1, 4, 9]),
            "last_ticketing": f"2026-11-{draw.randrange(1, 31):02d}",
            "refundable": draw.random() < 0.3,
            "itineraries": [
                {
                    "duration": draw.randrange(60, 1_500),
                    "segments": [
                        {
                            "carrier": draw.choice(CARRIERS),
                            "number": draw.randrange(1, 9_999),
                            "from": draw.choice(AIRPORTS),
                            "to": draw.choice(AIRPORTS),
                            "departs": f"2026-12-{draw.randrange(1, 32):02d}T{draw.randrange(24):02d}:"
                                       f"{draw.randrange(60):02d}:00",
                            "arrives": f"2026-12-{draw.randrange(1, 32):02d}T{draw.randrange(24):02d}:"
                                       f"{draw.randrange(60):02d}:00+09:00",
                            "km": round(draw.random() * 12_000, 3),
                        }
                        for _ in range(segments)
                    ],
                }
                for _ in range(legs)
            ],
        })
    return {"meta": {"count": count, "page": number}, "data": {"offers": found}}


def answer(number, count, **shape):
    return json.dumps(offers(number, count, **shape)).encode()


TABLE = """
[stage.offers]
from = "air/offers"
to = "staged/offers"
manifest = false
records = "data.offers[]"
explode = ["itineraries", "itineraries.segments"]
[stage.offers.columns]
id = { type = "string", required = true }
price = { path = "price.total", type = "decimal(12,2)" }
currency = { path = "price.currency", type = "string" }
seats = "int32"
last_ticketing = "date"
refundable = "bool"
duration = { path = "itineraries.duration", type = "int64" }
carrier = { path = "itineraries.segments.carrier", type = "string" }
number = { path = "itineraries.segments.number", type = "int32" }
origin = { path = "itineraries.segments.from", type = "string" }
destination = { path = "itineraries.segments.to", type = "string" }
departs = { path = "itineraries.segments.departs", type = "timestamp", zone = "Asia/Seoul" }
arrives = { path = "itineraries.segments.arrives", type = "timestamp" }
km = { path = "itineraries.segments.km", type = "float64" }
"""
