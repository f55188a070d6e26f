# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""Where packets come from and go to: the ports of a data plane.

A worker has inner and outer ports, each for itself. Where there are several workers, `group` makes one port for each of them.

A GeneratorPort drives workers at their full speed, without a system call and without a second thread. Outbound:

    source, sink = GeneratorPort(PacketBatch.from_packets(packets)), GeneratorPort()
    worker = plane.add_worker("w0", source, [sink])
    threading.Thread(target=worker.run).start()
    source.grant(10_000_000)                        # from here on it runs: sink.counts["sent"] grows
    plane.worker_stats()[0]["cpu"]                  # seconds; the worker sleeps when nothing is granted

Inbound the packets are sealed ones (OutboundSa.seal of the same SA), `path` theirs as this side has it. The window accepts each
once: grant no more than there are, then remove and install the SA again. A worker of both directions takes a generator on either
side. Its price is one copy a packet into the worker's buffer, as a kernel's would be: time `drive` to know it.
"""

from ipsecfast.errors import DataPlaneError

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ipsecfast cimport csrc
from ipsecfast.values cimport check, fill_address, fill_hardware, fill_path, path_value, unsigned_value


cdef class Port:
    """Where packets come from and go to. Made by its subclasses; a data plane that has it keeps it alive.

    `close()` of a port that a data plane still uses takes effect when that data plane is closed.
    """

    def __init__(self):
        raise TypeError("a port is a TunPort, UdpPort, RawEspPort or one of MemoryPort.pair()")

    def __dealloc__(self):
        csrc.ipsf_port_free(self._port)

    cdef csrc.ipsf_port *_enter(self) except NULL:
        """For the time of a call, or as long as a data plane has it: `_leave` must follow."""
        if self._closed or self._port == NULL:
            raise DataPlaneError("the port is closed")
        self._users += 1
        return self._port

    cdef void _leave(self) noexcept:
        self._users -= 1
        self._free_when_unused()

    cdef void _free_when_unused(self) noexcept:
        cdef csrc.ipsf_port *port = self._port
        if self._closed and self._users == 0:
            self._port = NULL
            csrc.ipsf_port_free(port)

    @property
    def name(self):
        """What the port is called: the device of a TunPort as the kernel named it."""
        cdef csrc.ipsf_port *port = self._enter()
        try:
            return csrc.ipsf_port_name(port).decode()
        finally:
            self._leave()

    def close(self):
        """Gives back the descriptor and the memory, at the latest when the last data plane that uses the port is closed."""
        self._closed = True
        self._free_when_unused()


cdef csrc.ipsf_port **_room_for(size_t n) except NULL:
    """For a group of n ports, at least one; the caller frees it."""
    cdef csrc.ipsf_port **ports = <csrc.ipsf_port **>calloc(n if n else 1, sizeof(csrc.ipsf_port *))
    if ports == NULL:
        raise MemoryError("ports")
    return ports


@cython.final
cdef class TunPort(Port):
    """A TUN device of the name `name` (TUNSETIFF, IFF_NO_PI), made here and gone when closed. Carries whole IP packets.

    Raises DataPlaneError with the system's reason, e.g. without CAP_NET_ADMIN.
    """

    def __init__(self, str name not None):
        if self._port != NULL:
            raise DataPlaneError("the port exists already")
        cdef bytes encoded = name.encode()
        check(csrc.ipsf_port_tun_new(encoded, &self._port), f"TUN device {name}")

    @staticmethod
    def group(str name not None, n):
        """`n` queues of one device, one for each worker; a flow stays on its queue, see `steered`. Errors as of TunPort."""
        cdef size_t i, count = unsigned_value(n, 8, "number of queues")
        cdef bytes encoded = name.encode()
        cdef csrc.ipsf_port **made = _room_for(count)
        cdef list ports = [TunPort.__new__(TunPort) for _ in range(count)]
        try:
            check(csrc.ipsf_port_tun_group(encoded, count, made), f"TUN device {name} with {count} queues")
            for i in range(count):
                (<TunPort>ports[i])._port = made[i]
        finally:
            free(made)
        return ports

    @property
    def steered(self):
        """Of the first of a group: whether the kernel spreads flows by our hash. If not, it moves a flow to the queue where its
        answers are written: to the worker that owns their SA."""
        cdef csrc.ipsf_port *port = self._enter()
        try:
            return csrc.ipsf_port_tun_steered(port) != 0
        finally:
            self._leave()


@cython.final
cdef class UdpPort(Port):
    """A wildcard-bound UDP socket for ESP in UDP (RFC 3948) and for IKE behind the non-ESP marker.

    `version` is 4 or 6, `mark` the firewall mark of what it sends (0: none). Raises DataPlaneError with the system's reason,
    e.g. when the port is taken.
    """

    def __init__(self, version, port=4500, *, mark=0):
        if self._port != NULL:
            raise DataPlaneError("the port exists already")
        cdef uint8_t ip_version = unsigned_value(version, 8, "version")
        cdef unsigned number = unsigned_value(port, 16, "port")
        check(csrc.ipsf_port_udp_new(ip_version, number, unsigned_value(mark, 32, "mark"), &self._port),
              f"UDP port {number} of IPv{version}")

    @staticmethod
    def group(version, n, port=4500, *, mark=0):
        """`n` sockets of one port, one for each inbound worker in the order of their making.

        The kernel brings an SPI's packets to the worker that owns its SA; IKE and keepalives come to the first. Errors as of
        UdpPort.
        """
        cdef size_t i, count = unsigned_value(n, 8, "number of sockets")
        cdef uint8_t ip_version = unsigned_value(version, 8, "version")
        cdef unsigned number = unsigned_value(port, 16, "port")
        cdef uint32_t fwmark = unsigned_value(mark, 32, "mark")
        cdef csrc.ipsf_port **made = _room_for(count)
        cdef list ports = [UdpPort.__new__(UdpPort) for _ in range(count)]
        try:
            check(csrc.ipsf_port_udp_group(ip_version, number, fwmark, count, made), f"UDP port {number} of IPv{version}")
            for i in range(count):
                (<UdpPort>ports[i])._port = made[i]
        finally:
            free(made)
        return ports

    def fileno(self):
        """The socket's descriptor: the control plane may send IKE through it (never read from it)."""
        cdef csrc.ipsf_port *port = self._enter()
        try:
            return csrc.ipsf_port_fd(port)
        finally:
            self._leave()


@cython.final
cdef class IkeGate:
    """Which socket of a port's group an IKE message comes to, by the rank of the SPI that its header has for ours (`model.SpiRank`).

    Raises DataPlaneError, which says why, where the kernel takes no BPF program.
    """

    cdef csrc.ipsf_gate *_gate

    def __init__(self):
        if self._gate != NULL:
            raise DataPlaneError("the gate exists already")
        check(csrc.ipsf_gate_new(&self._gate), "gate of IKE")

    def __dealloc__(self):
        csrc.ipsf_gate_free(self._gate)

    def rank(self, const uint8_t[::1] spi not None, unsigned rank):
        """From now on this SPI (8 octets) has the rank. Raises DataPlaneError if there is no room for it."""
        if spi.shape[0] != 8 or rank > csrc.IPSF_RANK_UNKNOWN:
            raise ValueError(f"an SPI of {spi.shape[0]} octets, rank {rank}")
        check(csrc.ipsf_gate_rank(self._gate, &spi[0], <csrc.ipsf_rank>rank), "gate of IKE")

    def guard(self, int fd, workers=0):
        """Steers the group of the socket `fd`: `workers` sockets of UdpPort.group (0: port 500), then one for each rank."""
        check(csrc.ipsf_gate_guard(self._gate, fd, unsigned_value(workers, 8, "number of workers")), "gate of IKE")


@cython.final
cdef class RawEspPort(Port):
    """A raw socket for bare ESP, IP protocol 50; arguments and errors as of UdpPort."""

    def __init__(self, version, *, mark=0):
        if self._port != NULL:
            raise DataPlaneError("the port exists already")
        cdef uint8_t ip_version = unsigned_value(version, 8, "version")
        check(csrc.ipsf_port_raw_new(ip_version, unsigned_value(mark, 32, "mark"), &self._port), f"raw ESP of IPv{version}")

    @staticmethod
    def group(version, n, *, mark=0):
        """`n` sockets, one for each inbound worker in the order of their making; each takes what its worker owns.

        Errors as of RawEspPort.
        """
        cdef size_t i, count = unsigned_value(n, 8, "number of sockets")
        cdef uint8_t ip_version = unsigned_value(version, 8, "version")
        cdef uint32_t fwmark = unsigned_value(mark, 32, "mark")
        cdef csrc.ipsf_port **made = _room_for(count)
        cdef list ports = [RawEspPort.__new__(RawEspPort) for _ in range(count)]
        try:
            check(csrc.ipsf_port_raw_group(ip_version, fwmark, count, made), f"raw ESP of IPv{version}")
            for i in range(count):
                (<RawEspPort>ports[i])._port = made[i]
        finally:
            free(made)
        return ports


cdef class RingPort(Port):
    """Whole Ethernet frames of one interface, past the kernel's stack. Takes nothing before `set_address` and `take`.

    Ports of one group share what they take: one call on any of them is enough.
    """

    def set_address(self, bytes address not None):
        """Frames to this hardware address, the interface's own of 6 bytes, may be taken."""
        cdef uint8_t[6] octets
        cdef csrc.ipsf_port *port = self._enter()
        try:
            fill_hardware(octets, address)
            check(csrc.ipsf_port_set_address(port, octets), f"hardware address {address.hex(':')}")
        finally:
            self._leave()

    def take(self, network, longest=0):
        """Outer ports: ESP to this address (a network of one) is ours. Inner ports: packets to the network that are not
        longer than `longest` bytes are; 0 leaves it to the kernel, whatever wider networks say."""
        cdef csrc.ipsf_addr address
        cdef csrc.ipsf_port *port = self._enter()
        try:
            fill_address(&address, network.network_address)
            check(csrc.ipsf_port_take(port, &address, network.prefixlen, unsigned_value(longest, 32, "longest")), f"take {network}")
        finally:
            self._leave()

    def leave(self, network):
        """Takes back what `take` said of the network."""
        cdef csrc.ipsf_addr address
        cdef csrc.ipsf_port *port = self._enter()
        try:
            fill_address(&address, network.network_address)
            check(csrc.ipsf_port_leave(port, &address, network.prefixlen), f"leave {network}")
        finally:
            self._leave()


@cython.final
cdef class PacketPort(RingPort):
    """An AF_PACKET port, made by `PacketPort.group`."""

    @staticmethod
    def group(str interface not None, n, *, outer, bypass=False, udp_port=4500):
        """`n` ports of one interface, one for each worker. `outer`: they carry ESP, bare or in UDP to and from `udp_port`,
        and an SPI's packets come to the worker that owns its SA; else IP packets, and a flow stays with one worker.
        `bypass`: frames pass by the interface's queueing discipline. Raises DataPlaneError with the system's reason.
        """
        cdef size_t i, count = unsigned_value(n, 8, "number of ports")
        cdef bytes encoded = interface.encode()
        cdef csrc.ipsf_packet_options options
        options.interface = encoded
        options.outer, options.bypass = bool(outer), bool(bypass)
        options.udp_port = unsigned_value(udp_port, 16, "UDP port")
        cdef csrc.ipsf_port **made = _room_for(count)
        cdef list ports = [PacketPort.__new__(PacketPort) for _ in range(count)]
        try:
            check(csrc.ipsf_port_packet_group(&options, count, made), f"packet socket on {interface}")
            for i in range(count):
                (<PacketPort>ports[i])._port = made[i]
        finally:
            free(made)
        return ports


@cython.final
cdef class XdpPort(RingPort):
    """An AF_XDP port, made by `XdpPort.group`."""

    @staticmethod
    def group(str interface not None, n, *, outer, beside=None, ring=False):
        """`n` ports of one interface, port i on its queue i; fewer where it has fewer queues. `outer`: they carry ESP, else IP
        packets. Frames on other queues, and those that are not ours, are the kernel's as ever.

        `beside`: ports of the other role, whose memory these share where the kernel can (`shares` tells). `ring`: frames
        leave by the transmit ring also where the driver does no zero-copy; else a packet socket sends there. Raises DataPlaneError with the system's reason: EBUSY, the interface has an XDP program already;
        EMSGSIZE, its MTU is above 3,698.
        """
        cdef size_t i, count = unsigned_value(n, 8, "number of ports")
        cdef bytes encoded = interface.encode()
        cdef list others = list(beside) if beside is not None else []
        cdef csrc.ipsf_port **made = _room_for(count)
        cdef csrc.ipsf_port **near = NULL
        cdef csrc.ipsf_xdp_options options
        cdef list entered = []
        cdef list ports = [XdpPort.__new__(XdpPort) for _ in range(count)]
        try:
            near = _room_for(count)
            for i in range(min(count, <size_t>len(others))):
                near[i] = (<Port?>others[i])._enter()
                entered.append(others[i])
            options.interface, options.outer, options.ring = encoded, bool(outer), bool(ring)
            options.beside = near if others else NULL
            count = check(csrc.ipsf_port_xdp_group(&options, count, made), f"XDP sockets on {interface}")
            for i in range(count):
                (<XdpPort>ports[i])._port = made[i]
        finally:
            for port in entered:
                (<Port>port)._leave()
            free(near)
            free(made)
        return ports[:count]

    @property
    def mode(self):
        """How the interface runs it: "native, zero-copy", "native" (the driver), "generic" (the kernel, on socket buffers)."""
        cdef csrc.ipsf_port *port = self._enter()
        try:
            return csrc.ipsf_port_xdp_mode(port).decode()
        finally:
            self._leave()

    @property
    def shares(self):
        """Whether its memory is another port's, too."""
        cdef csrc.ipsf_port *port = self._enter()
        try:
            return csrc.ipsf_port_xdp_shares(port) == 1
        finally:
            self._leave()


@cython.final
cdef class MemoryPort(Port):
    """A port over memory, for tests and benchmarks: what one end of a pair sends the other receives, or `get` takes."""

    @staticmethod
    def pair(capacity=1024):
        """Two connected ports that hold up to `capacity` packets in each direction. One data plane may have both, or one
        each of two data planes, or a test plays one end itself with `put` and `get`."""
        cdef MemoryPort a = MemoryPort.__new__(MemoryPort), b = MemoryPort.__new__(MemoryPort)
        check(csrc.ipsf_port_memory_pair(unsigned_value(capacity, 32, "capacity"), &a._port, &b._port), "memory ports")
        return a, b

    def put(self, bytes packet not None, path=None, tos=0):
        """Puts a packet where this port receives it, as if it came over `path` with the outer TOS byte `tos`.

        False when the port's ring is full.
        """
        cdef csrc.ipsf_path c_path
        cdef csrc.ipsf_path *at = NULL
        cdef const uint8_t *data = <const uint8_t *><const char *>packet
        cdef size_t length = len(packet)
        cdef uint8_t octet = unsigned_value(tos, 8, "tos")
        cdef int code
        if path is not None:
            memset(&c_path, 0, sizeof(c_path))
            fill_path(&c_path, path)
            at = &c_path
        cdef csrc.ipsf_port *port = self._enter()
        try:
            with nogil:
                code = csrc.ipsf_port_memory_put(port, data, length, at, octet)
        finally:
            self._leave()
        return code != csrc.IPSF_ENOSPC and check(code, f"a packet of {length} bytes") == 0

    def get(self):
        """The next packet that this port sent, as (bytes, path, TOS byte), path None where it had none; or None."""
        cdef csrc.ipsf_path path
        cdef uint8_t[csrc.IPSF_IKE_MAX] data
        cdef uint8_t tos = 0
        cdef int length
        memset(&path, 0, sizeof(path))
        cdef csrc.ipsf_port *port = self._enter()
        try:
            with nogil:
                length = csrc.ipsf_port_memory_get(port, data, sizeof(data), &path, &tos)
        finally:
            self._leave()
        if check(length, "the next packet") == 0:
            return None
        return (<const char *>data)[:length], path_value(&path), tos


@cython.final
cdef class GeneratorPort(Port):
    """A source and a sink for benchmarks: delivers the packets of a PacketBatch (copied here; None: a sink only) in turn, again
    from the first after the last, each as if it came over `path` (an outer port) or without one (an inner port), as many as
    are granted; counts what is sent, and forgets it. The module's text shows how it is used.

    Raises ValueError or TypeError as PacketBatch does, DataPlaneError for a packet longer than 65535 bytes.
    """

    def __init__(self, packets=None, path=None):
        if self._port != NULL:
            raise DataPlaneError("the port exists already")
        cdef csrc.ipsf_path over
        cdef csrc.ipsf_packets c_packets
        memset(&c_packets, 0, sizeof(c_packets))
        memset(&over, 0, sizeof(over))
        if path is not None:
            fill_path(&over, path)
        cdef const uint8_t[::1] data
        cdef const uint64_t[::1] offsets
        cdef const uint32_t[::1] lengths
        if packets is not None and len(packets.lengths):
            data, offsets, lengths = packets.data, packets.offsets, packets.lengths
            c_packets.data, c_packets.size = <uint8_t *>&data[0], data.shape[0]
            c_packets.offsets, c_packets.lengths = <uint64_t *>&offsets[0], <uint32_t *>&lengths[0]
            c_packets.count = min(offsets.shape[0], lengths.shape[0])
        check(csrc.ipsf_port_generator_new(&c_packets, NULL if path is None else &over, &self._port), "generator port")

    def grant(self, n):
        """Lets it deliver `n` packets more. From any thread. Raises DataPlaneError when it has none."""
        cdef uint64_t more = unsigned_value(n, 64, "number of packets")
        cdef csrc.ipsf_port *port = self._enter()
        try:
            check(csrc.ipsf_port_generator_grant(port, more), "a generator without packets")
        finally:
            self._leave()

    @property
    def counts(self):
        """{granted, delivered, sent: packets, sent_bytes}, as far as the workers are now."""
        cdef csrc.ipsf_generator_counts counts
        cdef csrc.ipsf_port *port = self._enter()
        try:
            csrc.ipsf_port_generator_counts(port, &counts)
        finally:
            self._leave()
        return {"granted": counts.granted, "delivered": counts.delivered, "sent": counts.sent, "sent_bytes": counts.sent_bytes}

    def drive(self):
        """Delivers all that is granted to itself: what the port alone costs. Raises DataPlaneError if a data plane has it."""
        cdef int code
        if self._users:
            raise DataPlaneError("a data plane has the generator port")
        cdef csrc.ipsf_port *port = self._enter()
        try:
            with nogil:
                code = csrc.ipsf_port_generator_drive(port)
        finally:
            self._leave()
        check(code, "generator port")
