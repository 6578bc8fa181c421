"""Seeded damage to files: blind, and such as keeps the outer form."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

NUMBERS = [b"-1", b"0", b"1e999", b"NaN", b"null", b"4294967296", b"9" * 20, b"9" * 5000, b"1.5"]
JUNK: list[Any] = [None, True, -1, 0, 2**40, 2**63, 10**30, 1e308, float("nan"), float("inf"), ""]
JUNK += ["x", "../../x", "__class__", "os:system", [], {}, [[]], {"a": [1]}, "\x00", "\ud800"]
YAML = ["[" * 3000, "*a", "&a [*a]", "!!python/object/apply:os.system ['true']", "${oc.env:HOME}"]
YAML += [
    "${x}",
    "${",
    "{a: 1}",
    "|",
    "- x",
    "\t",
    "1e999",
    ".nan",
    "2001-01-01",
    "!!binary x",
    "-1",
]
YAML += [
    "9" * 5000,
    "-1",
    "???",
    "null",
    "true",
    "",
    "'",
    "<<: *a",
    "${now:%Y}",
    "\x00",
    "_target_: x",
]
NAMES = ["../../outside", "/outside", "x" * 300, "labels.npy", "x_train.npy", "archive/data.pkl"]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content of a file with something wrong with it."""
    forms = [_flipped, _flipped, _cut, _stuffed, _renumbered]
    if content[:2] == b"PK":
        forms += [_zip_inside] * 4
    elif content[:2] == b"\x1f\x8b":
        forms += [_gzip_inside] * 4
    elif content[:1] in (b"{", b"["):
        forms += [_json_places] * 6
    elif re.match(rb"\w+: ", content):
        forms += [_yaml_values] * 8
    elif content[8:9] == b"{":
        forms += [_safetensors_header] * 4
    return chance.choice(forms)(content, chance)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with every key or index of it."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in list(items):
            yield content, key
            yield from places(value)


def _flipped(content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(chance.randint(1, 8) if found else 0):
        found[chance.randrange(len(found))] = chance.choice([0, 255, chance.randrange(256)])
    return bytes(found)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _stuffed(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    start = chance.randrange(len(content) + 1)
    more = [content[start : start + 64], b"\xff" * 8, b"\x00" * 100, b"[" * 5000, b"\x80\x04."]
    return content[:at] + chance.choice(more) + content[at:]


def _renumbered(content: bytes, chance: random.Random) -> bytes:
    numbers = list(re.finditer(rb"\d+", content))
    if not numbers:
        return b""
    found = chance.choice(numbers)
    return content[: found.start()] + chance.choice(NUMBERS) + content[found.end() :]


def _json_places(content: bytes, chance: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(chance.randint(1, 3)):
        around = list(places(value))
        if not around:
            break
        holder, key = chance.choice(around)
        if chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(JUNK))
    return json.dumps(value).encode()


def _yaml_values(content: bytes, chance: random.Random) -> bytes:
    lines = content.decode().splitlines()
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(lines))
        key = lines[at].partition(":")[0]
        lines[at] = chance.choice([f"{key}: {chance.choice(YAML)}", "", chance.choice(YAML)])
    return "\n".join(lines).encode(errors="surrogatepass")


def _safetensors_header(content: bytes, chance: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = _json_places(content[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _gzip_inside(content: bytes, chance: random.Random) -> bytes:
    return gzip.compress(_flipped(gzip.decompress(content), chance), 1)


def _zip_inside(content: bytes, chance: random.Random) -> bytes:
    """Its members damaged, renamed, doubled, left out; all checksums right again."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        victim = chance.choice(old.namelist())
        kind = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
        for name in old.namelist():
            inside = old.read(name)
            if name == victim:
                what = chance.randrange(8)
                if what == 0:
                    continue
                if what == 1:
                    name = chance.choice([n for n in NAMES if n not in old.namelist()])
                else:
                    inside = damaged(inside, chance)
            new.writestr(name, inside, kind)
    return made.getvalue()
