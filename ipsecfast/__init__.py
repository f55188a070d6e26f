"""ipsecfast: an IPsec gateway in user space. IKEv2 and operations in Python, the packet path in C."""

__version__ = "0.1.0"
