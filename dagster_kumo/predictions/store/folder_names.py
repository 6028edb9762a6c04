"""Names that others chose, partition keys first of all, as folders of a store."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

LONGEST_NAME = 255  # bytes, on the usual disks
_HASH_CHARS = 32
# Windows keeps these for devices, whatever follows the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def folder_name(part: str) -> str:
    """A part of a key as the name of one folder: nothing in it leads elsewhere, and no two are alike.

    What is too long for a disk is cut, and goes on with a hash of the whole: for good, since what is
    stored is found by it. A percent sign before a tilde is in no other name.

    >>> folder_name("2026-11-24"), folder_name("../../etc"), folder_name(".."), folder_name("nul")
    ('2026-11-24', '..%2F..%2Fetc', '%2E%2E', '%6Eul')
    >>> folder_name("x" * 300)[-36:]
    'xx%~0d4e2ca9e9cbced7a7a5380eb29e1a37'
    """
    name = quote(part, safe="", errors="surrogatepass")
    dots = len(name) - len(name.rstrip("."))
    if dots:  # also at the end of a longer name, where Windows drops them
        name = name[:-dots] + "%2E" * dots
    if _DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > LONGEST_NAME:
        whole = hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest()[:_HASH_CHARS]
        name = f"{name[: LONGEST_NAME - _HASH_CHARS - 2]}%~{whole}"
    return name
