"""What holds for the objects of the binding: they close twice, refuse to be used closed, keep alive what C uses, and
leave the GIL to others."""

from __future__ import annotations

import gc
import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from samples import as_inbound, counted, datagram, path_of, reverse, sa_pair, sa_params
from sites import A_TO_B, Pair, protect

from ipsecfast.dataplane import DataPlane, MemoryPort, PacketBatch, Port, TunPort, UdpPort, Worker
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import IkeDatagram

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a TUN device: only root can")


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    made = DataPlane()
    yield made
    made.close()


def add_worker(plane: DataPlane) -> tuple[Worker, MemoryPort, MemoryPort]:
    inner, outer = MemoryPort.pair()[0], MemoryPort.pair()[0]
    return plane.add_worker("w0", inner, [outer]), inner, outer


CALLS: dict[str, Callable[[DataPlane], object]] = {
    "engine": lambda plane: plane.engine,
    "event_fd": lambda plane: plane.event_fd,
    "add_worker": lambda plane: plane.add_worker("late", MemoryPort.pair()[0], [MemoryPort.pair()[0]]),
    "install_inbound": lambda plane: plane.install_inbound(as_inbound(sa_params())),
    "install_outbound": lambda plane: plane.install_outbound(sa_params()),
    "activate_outbound": lambda plane: plane.activate_outbound(1, 0x1001),
    "remove_inbound": lambda plane: plane.remove_inbound(0x1001),
    "remove_outbound": lambda plane: plane.remove_outbound(1, 0x1001),
    "move_peer": lambda plane: plane.move_peer(1, 1, 2, path_of()),
    "release_held": lambda plane: plane.release_held(1),
    "publish_spd": lambda plane: plane.publish_spd(protect(1)),
    "events": lambda plane: plane.events(),
    "worker_stats": lambda plane: plane.worker_stats(),
    "sa_stats": lambda plane: plane.sa_stats(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_data_plane_refuses(call: str) -> None:
    plane = DataPlane()
    plane.close()
    plane.close()
    with pytest.raises(DataPlaneError, match="the data plane is closed"):
        CALLS[call](plane)


def test_a_worker_of_a_closed_data_plane_refuses() -> None:
    plane = DataPlane()
    worker, _, _ = add_worker(plane)
    plane.close()
    worker.stop()
    for call in (worker.run, worker.step):
        with pytest.raises(DataPlaneError, match="the data plane is closed"):
            call()
    assert worker.name == "w0"


def test_a_closed_port_refuses() -> None:
    port, other = MemoryPort.pair()
    port.close()
    port.close()
    for call in (lambda: port.put(b"x"), port.get, lambda: port.name):
        with pytest.raises(DataPlaneError, match="the port is closed"):
            call()
    with pytest.raises(DataPlaneError, match="the port is closed"):
        DataPlane().add_worker("w", port, [other])
    assert other.get() is None


def test_a_port_in_use_lives_until_its_data_plane_is_closed(plane: DataPlane) -> None:
    worker, inner, outer = add_worker(plane)
    inner.close()
    outer.close()
    assert worker.step() == 0
    plane.close()


def test_what_c_uses_stays_alive_without_a_name_in_python() -> None:
    plane = DataPlane()
    worker = add_worker(plane)[0]
    del plane
    gc.collect()
    assert worker.step() == 0


def test_a_dropped_data_plane_is_freed() -> None:
    class Holder:
        """Is part of a cycle with what it holds."""

        def __init__(self) -> None:
            self.plane = DataPlane()
            self.worker = add_worker(self.plane)[0]
            self.myself = self

    watch = weakref.ref(Holder())
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("make", [Port, MemoryPort, Worker])
def test_what_is_not_made_directly_says_so(make: type) -> None:
    with pytest.raises(TypeError):
        make()


def run_in_thread(worker: Worker) -> threading.Thread:
    thread = threading.Thread(target=worker.run)
    thread.start()
    return thread


def test_running_workers_leave_the_gil_to_others_and_stop_when_closed() -> None:
    """The main thread goes on while two workers run, and sees what they did."""
    pair = Pair.make()
    threads = [run_in_thread(site.worker) for site in (pair.a, pair.b)]
    packets = [datagram(i) for i in range(2000)]
    arrived: list[bytes] = []
    for packet in packets:
        while not pair.a.inner.put(packet):
            pass
        arrived += pair.b.received()
    while len(arrived) < len(packets):  # the test's time limit ends this if a packet is lost
        arrived += pair.b.received()
    assert arrived == packets
    for site in (pair.a, pair.b):
        with pytest.raises(DataPlaneError, match="runs already"):
            site.worker.step()
        site.plane.close()
    for thread in threads:
        thread.join()


def test_stop_lets_run_return(plane: DataPlane) -> None:
    worker, _, _ = add_worker(plane)
    thread = run_in_thread(worker)
    assert thread.is_alive()
    worker.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_commands_take_effect_under_a_running_worker() -> None:
    """Rekeys while packets flow: every one arrives, once, in its order."""
    pair = Pair.make()
    threads = [run_in_thread(site.worker) for site in (pair.a, pair.b)]
    arrived: list[bytes] = []
    packets = [datagram(i) for i in range(3000)]
    for i, packet in enumerate(packets):
        while not pair.a.inner.put(packet):
            arrived += pair.b.received()
        if i % 300 == 299:
            new = sa_params(A_TO_B + i, key=bytes([i % 251]) * 20)
            pair.b.plane.install_inbound(as_inbound(new))
            pair.a.plane.install_outbound(new)
            pair.a.plane.activate_outbound(1, new.spi)
        arrived += pair.b.received()
    while len(arrived) < len(packets):
        arrived += pair.b.received()
    assert arrived == packets
    pair.close()
    for thread in threads:
        thread.join()


def test_the_event_descriptor_is_readable_when_there_is_something() -> None:
    pair = Pair.make()
    path = reverse(path_of())
    assert select.select([pair.b.plane.event_fd], [], [], 0) == ([], [], [])
    assert pair.b.outer.put(bytes(4) + b"ike", path)
    pair.b.step()
    assert select.select([pair.b.plane.event_fd], [], [], 0)[0]
    assert pair.b.events() == [IkeDatagram(path, b"ike")]
    assert select.select([pair.b.plane.event_fd], [], [], 0)[0] == []
    pair.close()


def test_events_come_in_portions() -> None:
    pair = Pair.make()
    messages = [i.to_bytes(4) for i in range(1, 31)]
    for message in messages:
        assert pair.b.outer.put(bytes(4) + message, reverse(path_of()))
    pair.b.step()
    told = pair.b.plane.events(10) + pair.b.plane.events(0) + pair.b.plane.events(15) + pair.b.plane.events()
    assert [event.data for event in told if isinstance(event, IkeDatagram)] == messages
    pair.close()


def test_one_sa_from_several_threads() -> None:
    """Calls wait for each other: no sequence number is used twice."""
    sender, receiver = sa_pair(sa_params(replay_window=65_536))
    batch = PacketBatch.from_packets([datagram(i) for i in range(500)])
    results: list[PacketBatch] = []
    threads = [
        threading.Thread(target=lambda: results.extend(sender.seal(batch)[0] for _ in range(20))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sender.sequence == 4 * 20 * 500
    assert len(results) == 80
    numbers = np.concatenate([[int.from_bytes(one[4:8].tobytes()) for one in sealed] for sealed in results])
    assert len(np.unique(numbers)) == sender.sequence
    results.sort(key=lambda sealed: bytes(sealed[0][4:8]))
    assert all(counted(receiver.open(sealed)[1]) == {"none": 500} for sealed in results)


def test_no_worker_without_a_direction_or_an_outer_port(plane: DataPlane) -> None:
    inner, outer = MemoryPort.pair()
    with pytest.raises(DataPlaneError, match="worker w"):
        plane.add_worker("w", inner, [outer], outbound=False, inbound=False)
    with pytest.raises(TypeError):
        plane.add_worker("w", inner, ["eth0"])  # type: ignore[list-item]


def test_directions_can_be_split_between_two_workers() -> None:
    plane = DataPlane()
    inner, outer = MemoryPort.pair()[0], MemoryPort.pair()[0]
    out = plane.add_worker("out", inner, [outer], inbound=False)
    into = plane.add_worker("in", inner, [outer], outbound=False)
    params = sa_params()
    plane.install_outbound(params)
    plane.activate_outbound(1, params.spi)
    plane.publish_spd(protect(1))
    assert inner.put(datagram())
    assert into.step() == 0
    assert out.step() == 1
    esp = outer.get()
    assert esp is not None
    assert esp[0][:4] == params.spi.to_bytes(4)
    assert [stats["name"] for stats in plane.worker_stats()] == ["out", "in"]
    plane.close()


@needs_root
def test_a_tun_device_is_named_and_gone_when_closed() -> None:
    port = TunPort("ipsfbind%d")
    name = port.name
    assert name.startswith("ipsfbind")
    assert os.path.exists(f"/sys/class/net/{name}")
    with pytest.raises(DataPlaneError, match=f"TUN device {name}: .*busy"):
        TunPort(name)
    port.close()
    assert not os.path.exists(f"/sys/class/net/{name}")


def test_a_udp_port_that_is_taken_says_so() -> None:
    port = UdpPort(4, 0)
    assert port.fileno() >= 0
    assert "udp" in port.name.lower()
    port.close()
    with pytest.raises(DataPlaneError, match="port is 65536"):
        UdpPort(4, 65536)
    with pytest.raises(DataPlaneError, match="UDP port 4500 of IPv5"):
        UdpPort(5)


def test_groups_are_all_or_nothing() -> None:
    group = UdpPort.group(4, 3, 0)
    try:
        names = {port.name for port in group}
        assert len(group) == 3
        assert len(names) == 1
        number = int(names.pop().rpartition(":")[2])
        with pytest.raises(DataPlaneError, match="in use"):
            UdpPort.group(4, 2, number)
        with pytest.raises(DataPlaneError, match="out of its range"):
            UdpPort.group(4, 0)
    finally:
        for port in group:
            port.close()
    UdpPort.group(4, 2, number)[0].close()
