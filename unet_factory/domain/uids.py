"""DICOM UIDs: one rule for every way in (HTTP form, STOW-RS, C-STORE, archives that are pulled from).

Reading is lenient, as receivers must be (note in PS3.5 section 9.1): components may begin with 0, padding is dropped,
and the UID is otherwise passed on unchanged. What this system writes of its own follows PS3.5 to the letter.
"""

import hashlib
import re

MAX_UID_CHARACTERS = 64
_PADDING = " \0"
_UID = re.compile(r"\d+(\.\d+)*", re.ASCII)


def unpadded(text: str) -> str:
    """``text`` without the NULs and spaces that pad a UID to an even length."""
    return text.strip(_PADDING)


def read_uid(text: str) -> str | None:
    """The UID in ``text`` without its padding; None where it is not one UID: empty, several, or other characters."""
    uid = unpadded(text)
    return uid if len(uid) <= MAX_UID_CHARACTERS and _UID.fullmatch(uid) else None


def uid_digest(*parts: str) -> str:
    """32 hexadecimal digits; listener and gateway call the same series and instances the same."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]
