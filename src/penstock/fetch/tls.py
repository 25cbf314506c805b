"""How servers have to prove who they are."""

from __future__ import annotations

import ssl

from penstock.config import FetchConfig

__all__ = ["client_context"]


def client_context(config: FetchConfig) -> ssl.SSLContext:
    """Certificates are verified against the system's authorities, unless ``--insecure`` says otherwise.

    OpenSSL looks for the authorities where SSL_CERT_FILE and SSL_CERT_DIR say, if they are set.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
