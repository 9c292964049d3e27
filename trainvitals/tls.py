"""Whether the service speaks TLS."""

from __future__ import annotations

import ssl
from pathlib import Path


def check_tls(certificate: Path | None, key: Path | None) -> bool:
    """Whether to speak TLS; raises ValueError with a sentence where the two files are no pair."""
    if certificate is None and key is None:
        return False
    if certificate is None or key is None:
        raise ValueError("--tls-cert and --tls-key go together: one is the certificate, the other its key")
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ValueError(f"{option} {path} cannot be read ({error.strerror})") from None
    try:
        # With a password that is none: openssl would ask for one at the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password=str)
    except ssl.SSLError as error:
        reason = {
            "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
            "NO_START_LINE": "one of them is not in PEM form",
        }.get(error.reason or "", "one of them is damaged, or the key has a password")
        raise ValueError(
            f"--tls-cert {certificate} and --tls-key {key} do not go together: {reason}"
        ) from None
    return True
