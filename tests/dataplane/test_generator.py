"""The source and sink of benchmarks from Python: sealed by one data plane's worker, opened by another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from samples import as_inbound, datagram, path_of, reverse, sa_params, seal_all
from sites import protect

from ipsecfast.dataplane import DataPlane, GeneratorPort, OutboundSa, PacketBatch, Worker
from ipsecfast.errors import DataPlaneError

PACKETS = [datagram(i) for i in range(200)]


@contextmanager
def running(plane: DataPlane, worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        plane.close()
        thread.join()


def wait_until_sent(sink: GeneratorPort, count: int) -> None:
    deadline = time.monotonic() + 10
    while sink.counts["sent"] < count:
        assert time.monotonic() < deadline, sink.counts
        time.sleep(0.001)


def test_outbound_runs_as_long_as_packets_are_granted() -> None:
    source, sink = GeneratorPort(PacketBatch.from_packets(PACKETS)), GeneratorPort()
    plane = DataPlane()
    worker = plane.add_worker("w0", source, [sink])
    plane.install_outbound(sa_params())
    plane.activate_outbound(1, 0x1001)
    plane.publish_spd(protect(1))
    with running(plane, worker):
        with pytest.raises(DataPlaneError, match="has the generator"):
            source.drive()
        source.grant(5000)
        wait_until_sent(sink, 5000)
        stats = plane.worker_stats()[0]
    assert source.counts == {"granted": 5000, "delivered": 5000, "sent": 0, "sent_bytes": 0}
    assert stats["outbound"]["tx_packets"] == 5000
    assert stats["outbound"]["tx_bytes"] == sink.counts["sent_bytes"]
    assert 0 < stats["cpu"] < 10


def test_inbound_opens_each_sealed_packet_once() -> None:
    sealed = PacketBatch.from_packets(seal_all(OutboundSa(sa_params()), PACKETS))
    source, sink = GeneratorPort(sealed, reverse(path_of())), GeneratorPort()
    plane = DataPlane()
    worker = plane.add_worker("w0", sink, [source])
    plane.install_inbound(as_inbound(sa_params()))
    with running(plane, worker):
        source.grant(len(PACKETS))
        wait_until_sent(sink, len(PACKETS))
        source.grant(10)
        while source.counts["delivered"] < len(PACKETS) + 10:
            time.sleep(0.001)
        deadline = time.monotonic() + 10
        while not (drops := plane.worker_stats()[0]["drops"]) and time.monotonic() < deadline:
            time.sleep(0.001)
    assert drops == {"replay": 10}
    assert sink.counts["sent_bytes"] == sum(len(packet) for packet in PACKETS)


def test_drive_moves_what_is_granted() -> None:
    source = GeneratorPort(PacketBatch.from_packets(PACKETS))
    source.grant(1000)
    source.drive()
    assert source.counts["sent"] == 1000


def test_wrong_arguments() -> None:
    with pytest.raises(DataPlaneError, match="without packets"):
        GeneratorPort().grant(1)
    with pytest.raises(DataPlaneError, match="out of its range"):
        GeneratorPort(PacketBatch.from_packets([bytes(65536)]))
    with pytest.raises(DataPlaneError, match="number of packets is -1"):
        GeneratorPort().grant(-1)
