"""Names for what DICOM UIDs identify, for files, keys and logs: a UID may lead to a patient, its digest does not."""

import hashlib


def uid_digest(*parts: str) -> str:
    """32 hexadecimal digits; listener and gateway call the same series and instances the same."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]
