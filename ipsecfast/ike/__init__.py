"""Pure IKEv2 (RFC 7296): no socket, no clock, no randomness of its own. Time and random bytes are arguments."""
