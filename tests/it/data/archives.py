"""Writes archives as providers do, with Python's zipfile, into the folder that is named."""

import os
import sys
import zipfile

FILES = [
    ("readme.txt", b"what this is\n"),
    ("ads/daily.csv", "".join(f"2026-11-{n % 28 + 1:02},{n},{n * 7919 % 1000}\n" for n in range(60_000)).encode()),
    ("ads/\ud0a4\uc6cc\ub4dc.csv", "\ub0a0\uc9dc,\ud074\ub9ad\n2026-11-20,17\n".encode()),
    ("ads/empty.csv", b""),
    ("deep/er/and/deeper/x.csv", b"a,b\n1,2\n"),
]


class Pipe:
    """What cannot be gone back in."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        return self.file.write(data)

    def flush(self):
        self.file.flush()


def archive(name, files=FILES, method=zipfile.ZIP_DEFLATED, streamed=False, long=False, folders=("ads/",)):
    with open(name, "wb") as file:
        with zipfile.ZipFile(Pipe(file) if streamed else file, "w", method) as out:
            for folder in folders:
                out.writestr(folder, b"", zipfile.ZIP_STORED)
            for member, data in files:
                info = zipfile.ZipInfo(member, (2026, 11, 20, 0, 0, 0))
                info.compress_type = method
                with out.open(info, "w", force_zip64=long) as to:
                    to.write(data)


def main():
    os.chdir(sys.argv[1])
    archive("deflate.zip")
    archive("stored.zip", method=zipfile.ZIP_STORED)
    archive("zip64.zip", long=True)
    archive("streamed.zip", streamed=True)
    archive("streamed-stored.zip", streamed=True, method=zipfile.ZIP_STORED)
    archive("streamed64.zip", streamed=True, long=True)
    archive("none.zip", [], folders=())
    archive("folders.zip", [], folders=("a/", "a/b/"))
    archive("upward.zip", [("a.csv", b"a\n"), ("../../../etc/passwd", b"x\n")])
    archive("absolute.zip", [("a.csv", b"a\n"), ("/etc/passwd", b"x\n")])
    archive("twice.zip", [("a.csv", b"a\n"), ("b.csv", b"b\n"), ("a.csv", b"c\n")])
    archive("bzip2.zip", [("a.csv", b"a\n")], method=zipfile.ZIP_BZIP2)
    archive("257.zip", [(f"{n}.csv", b"x\n") for n in range(257)])
    archive("256.zip", [(f"{n:03}.csv", f"{n}\n".encode()) for n in range(256)])
    archive("bomb.zip", [("a.csv", b"a\n"), ("zeros.csv", bytes(64 << 20))])
    # Each is harmless by itself.
    archive("bombs.zip", [(f"{n}.csv", bytes(12 << 20)) for n in range(4)])
    archive("large.zip", [("a.csv", b"a\n"), ("large.csv", os.urandom(3 << 20))])
    archive("several.zip", [(f"{n}.csv", os.urandom(1 << 20)) for n in range(5)])
    archive("many.zip", [(f"{n:02}.bin", os.urandom(1 << 20)) for n in range(32)])
    archive("long.zip", [("x" * 300 + ".csv", b"1\n"), ("x" * 301 + ".csv", b"2\n"), ("y" * 600, b"3\n")][:2])
    archive("longer.zip", [("y" * 600, b"3\n")])
    archive("rows.zip", [("a.csv", b"h\n1\n"), ("b.csv", b"h\n1\n2\n3\n"), ("c.csv", b"h\n")])
    archive("heads.zip", [("a.csv", b"h\n"), ("b.csv", b"h\n")])
    # Names in EUC-KR, unmarked, as old Windows programs write them; two differ in one byte only.
    with open("deflate.zip", "rb") as file:
        whole = file.read()
    with open("cut.zip", "wb") as file:
        file.write(whole[: len(whole) * 3 // 4])
    archive("legacy.zip", [("AAAA.csv", b"1\n"), ("BBBB.csv", b"2\n")])
    with open("legacy.zip", "rb") as file:
        named = file.read().replace(b"AAAA", b"\xb0\xa1\xb0\xa2").replace(b"BBBB", b"\xb0\xa1\xb0\xa3")
    with open("legacy.zip", "wb") as file:
        file.write(named)
    # The list at the end speaks of another file than the one that is there.
    archive("listed.zip", [("a.csv", b"1\n"), ("b.csv", b"2\n")])
    with open("listed.zip", "rb") as file:
        whole = file.read()
    at = whole.rindex(b"PK\x01\x02") + 16
    with open("listed.zip", "wb") as file:
        file.write(whole[:at] + b"\0\0\0\0" + whole[at + 4 :])


main()
