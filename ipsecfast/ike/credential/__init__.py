"""Who a peer is and what proves it: the PAD, certificates and paths, revocation, raw keys, AUTH (RFC 7296 s2.15)."""
