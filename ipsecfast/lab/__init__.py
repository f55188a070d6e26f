"""Gateways under observation on one machine: what the demo, the tests and the benchmarks share.

netns      hosts and gateways as network namespaces that vanish with the process
testbed    real `ipsecfast run` processes in them, and flows between their hosts
traffic    numbered UDP, TCP and ping that count what was lost and what came twice
demo       `ipsecfast demo`; display is what it shows
"""
