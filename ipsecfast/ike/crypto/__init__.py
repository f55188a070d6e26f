"""What IKE computes: the table of algorithms, the primitives (all from `cryptography`), key material, signatures.

Knows no message and no IKE SA."""
