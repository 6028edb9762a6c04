"""Names of folders in a store, made of partition keys and other names that users choose."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

LONGEST_NAME = 255  # bytes, on the usual disks
_HASH_CHARS = 32
# Windows reserves these for devices, whatever follows the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def folder_name(part: str) -> str:
    """A part of a key as the name of one folder. It cannot lead elsewhere, and each part has a name of its own.

    A name that is too long for a disk is cut and followed by a hash of the whole. This rule must never change,
    because stored outputs are found by it. No other name contains a percent sign before a tilde.

    >>> folder_name("2026-11-24"), folder_name("../../etc"), folder_name(".."), folder_name("nul")
    ('2026-11-24', '..%2F..%2Fetc', '%2E%2E', '%6Eul')
    >>> folder_name("x" * 300)[-36:]
    'xx%~0d4e2ca9e9cbced7a7a5380eb29e1a37'
    """
    name = quote(part, safe="", errors="surrogatepass")
    dots = len(name) - len(name.rstrip("."))
    if dots:  # Windows drops dots at the end of a name
        name = name[:-dots] + "%2E" * dots
    if _DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > LONGEST_NAME:
        whole = hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest()[:_HASH_CHARS]
        name = f"{name[: LONGEST_NAME - _HASH_CHARS - 2]}%~{whole}"
    return name
