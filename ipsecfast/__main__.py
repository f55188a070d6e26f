"""`python -m ipsecfast` is the command `ipsecfast`."""

from ipsecfast.cli import main

main()
