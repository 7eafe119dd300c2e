"""Whom we trust to be the database: the certificates of authorities, in a file that a Secret fills.

The file may be missing at first, and is renewed from time to time: the driver reads it for each connection, so neither
needs a restart. What is wrong with it is told before anything is tried: the driver would not say which file it is.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlencode

from bento_outbox.secret_files import secret_behind
from outbox_projector.database_errors import DatabaseUnavailable

UNCHECKED = ("disable", "allow", "prefer")
"""The modes in which no certificate is looked at."""


def tls_options(sslmode: str | None, trusted_certificates_file: Path | None) -> dict[str, str | None]:
    """As the driver wants them for a connection; without a file it goes by PGSSLROOTCERT.

    Raises DatabaseUnavailable when the file is none that it could use, or when it would not use it.
    """
    if trusted_certificates_file is None:
        return {"ssl": sslmode}
    if sslmode in UNCHECKED:
        raise DatabaseUnavailable(
            f"the database URL has sslmode={sslmode}, which checks no certificate, but trusted certificates are given: "
            f"write sslmode=verify-full, or leave them out",
            reason="DatabaseUrlInvalid",
        )
    _check(trusted_certificates_file)
    # The driver has no argument for the file; all that this URL leaves out is in the arguments.
    url = f"postgresql://?{urlencode({'sslrootcert': trusted_certificates_file})}"
    return {"dsn": url, "ssl": sslmode or "verify-full"}


def _check(file: Path) -> None:
    secret = secret_behind(file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise DatabaseUnavailable(
            f"{file} holds no certificates in PEM; {secret}: correct it", reason="DatabaseCertificatesInvalid"
        ) from error
    except OSError as error:
        raise DatabaseUnavailable(
            f"{file} cannot be read ({error.strerror}); {secret}: create it with the certificates of the database's "
            f"authorities",
            reason="SecretNotFound",
        ) from error
