"""Damaged and hostile variants of files: bytes changed, cut and joined; and, within a file's own form, entries of
other types, sizes and depths.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

HOSTILE = (  # what may stand in place of any entry of a JSON or TOML text
    *("null", "true", "-1", "0", "1", "7", "3.5", "50000000", "-50000000", "1e308", "NaN", "Infinity", "-Infinity"),
    *('""', '"x"', '"../../x"', '"\\u001b[31m"', '"\\ud800"', '"mean"', '"' + "y" * 3000 + '"'),
    *("[]", "[[]]", "[0]", '["x"]', "[null]", "{}", '{"x": 1}', "9" * 30, "9" * 5000),
    *("[" * 50 + "]" * 50, "[" * 5000 + "]" * 5000, '{"a":' * 40 + "1" + "}" * 40),
)
TOML_LINES = ("a.b.c = 1", "a." * 3000 + "a = 1", "[" * 500, "x = " + "[" * 2000, "[[stages]]", "\0", "stages = 3")
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "X9")


def mutant(data: bytes, form: str, rng: Random) -> bytes:
    """A variant of a file's contents; `form` is json, lines, toml, safetensors, zip, png or raw."""
    structured = FORMS.get(form)
    if structured is not None and rng.random() < 0.75:
        try:
            return structured(data, rng)
        except (ValueError, KeyError, IndexError, zipfile.BadZipFile):
            pass  # too little left to work on
    return bytes_changed(data, rng)


def bytes_changed(data: bytes, rng: Random) -> bytes:
    """A few bytes flipped, or a part cut, doubled, overwritten, moved or put in."""
    kind = rng.randrange(7)
    if not data or kind == 0:
        return rng.choice((b"", data[: rng.randrange(len(data) + 1)], data[:1], data + rng.randbytes(9)))
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 2, 8, 64, 1000)))
    if kind <= 2:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    part = {
        3: b"",
        4: data[start:stop] * rng.choice((2, 50)),
        5: rng.choice((b"\0", b"\xff", b"\x80", b"9", b"[")) * (stop - start),
        6: rng.randbytes(stop - start),
    }[kind]
    return data[:start] + part + data[stop:]


def json_changed(data: bytes, rng: Random) -> bytes:
    """One or two entries of a JSON text replaced, removed, renamed or doubled."""
    marks: dict[str, str] = {}
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        _change_entry(value, rng, marks)
    text = json.dumps(value)
    for mark, replacement in marks.items():
        text = text.replace(f'"{mark}"', replacement)
    return text.encode("utf-8", "surrogatepass")


def _change_entry(value: object, rng: Random, marks: dict[str, str]) -> None:
    places = list(_places(value))
    if not places:
        raise ValueError("nothing to change")
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(("x", "", "y" * 300, "__class__", "name"))] = parent.pop(key)
    elif kind == 2 and isinstance(parent, list):
        parent *= rng.choice((0, 2, 30))
    else:
        mark = f"mark-{len(marks)}"
        marks[mark] = rng.choice(HOSTILE)
        parent[key] = mark


def _places(value: object):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def lines_changed(data: bytes, rng: Random) -> bytes:
    """One line of a file of JSON lines changed."""
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = json_changed(lines[i], rng)
    return b"\n".join(lines) + b"\n"


def toml_changed(data: bytes, rng: Random) -> bytes:
    """One value of a TOML text replaced, or a line put in."""
    lines = data.decode().splitlines()
    i = rng.randrange(len(lines))
    key, separator, _ = lines[i].partition(" = ")
    if separator and rng.random() < 0.7:
        lines[i] = f"{key} = {rng.choice(HOSTILE).replace('NaN', 'nan').replace('Infinity', 'inf')}"
    else:
        lines.insert(i, rng.choice(TOML_LINES))
    return "\n".join(lines).encode()


def safetensors_changed(data: bytes, rng: Random) -> bytes:
    """The index: a tensor's shape or type, its name, the metadata (JSON in them too); or the numbers themselves."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.get("__metadata__", {})
    names = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(8)
    if kind <= 2 and metadata:
        key = rng.choice(list(metadata))
        try:
            metadata[key] = json_changed(metadata[key].encode(), rng).decode("utf-8", "replace")
        except ValueError:
            metadata[key] = rng.choice(HOSTILE)
    elif kind == 3 and metadata:
        metadata.pop(rng.choice(list(metadata)))
    elif kind == 4 and body:
        at = rng.randrange(0, len(body), 4)
        number = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\0", b"\xff" * 4))
        body = body[:at] + number * rng.choice((1, 8)) + body[at + 4 :]
        body = body[: len(data) - 8 - length]
    elif kind == 5:
        entry = header[rng.choice(names)]
        count = 1
        for size in entry["shape"]:
            count *= size
        entry["shape"] = rng.choice(([count], [1, count], [count, 1], [], [1] * 9 + [count], entry["shape"][::-1]))
    elif kind == 6:
        entry = header[rng.choice(names)]
        entry["dtype"] = rng.choice(DTYPES)
    else:
        name = rng.choice(names)
        header[rng.choice(("x", "ws", f"{name}.x", name[: len(name) // 2]))] = header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def zip_changed(data: bytes, rng: Random) -> bytes:
    """An entry of a zip changed, left out, renamed, doubled or compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i, kind = rng.randrange(len(entries)), rng.randrange(5)
    name, content = entries[i]
    compression = zipfile.ZIP_STORED
    if kind <= 1:
        entries[i] = (name, bytes_changed(content, rng))
    elif kind == 2:
        del entries[i]
    elif kind == 3:
        entries[i] = (rng.choice(("../x", "/x", "x", name + "x", name[:-1] or "y")), content)
    else:
        compression = zipfile.ZIP_DEFLATED
        entries[i] = (name, content + bytes(1 << 20))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return made.getvalue()


def png_changed(data: bytes, rng: Random) -> bytes:
    """A PNG that claims another size, depth or colours."""
    header = bytearray(data[16:29])
    size = rng.choice((0, 1, 3, 70, 13_000, 60_000, 2**31 - 1))
    kind = rng.randrange(4)
    if kind < 2:
        header[4 * kind : 4 * kind + 4] = size.to_bytes(4, "big")
    else:
        header[6 + kind] = rng.choice((1, 2, 3, 4, 6, 8, 16, 200))
    return data[:16] + bytes(header) + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


FORMS: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": json_changed,
    "lines": lines_changed,
    "toml": toml_changed,
    "safetensors": safetensors_changed,
    "zip": zip_changed,
    "png": png_changed,
}


def form_of(name: str) -> str:
    """The form that a file's name stands for."""
    for pattern, form in (
        (r"\.json$", "json"),
        (r"\.jsonl$", "lines"),
        (r"\.toml$", "toml"),
        (r"\.safetensors$", "safetensors"),
        (r"\.(npz|pt)$", "zip"),
        (r"\.png$", "png"),
    ):
        if re.search(pattern, name):
            return form
    return "raw"
