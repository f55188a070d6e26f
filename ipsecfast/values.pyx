# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The values of `ipsecfast.model` as the structs of ipsecfast.h and back, the tables of names, the one error checker.

The other extension modules build on this one; users find what they need in `ipsecfast.dataplane`.
"""

from ipaddress import IPv4Address, IPv6Address
from operator import index

from ipsecfast.errors import DataPlaneError
from ipsecfast.model import (
    Acquire,
    CopyField,
    FirstInbound,
    HardLifetime,
    IkeDatagram,
    Mode,
    Path,
    PeerMoved,
    PolicyAction,
    SoftLifetime,
    TrafficSelector,
    UnknownSpi,
)

cimport cython
from libc.errno cimport errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strerror

cdef extern from "string.h" nogil:
    void explicit_bzero(void *data, size_t size)

ENGINES = tuple([csrc.ipsf_engine_name(i).decode() for i in range(csrc.ipsf_engine_count())])
ENGINE_VERSIONS = {name: csrc.ipsf_engine_version(name.encode()).decode() for name in ENGINES}
DROP_REASONS = tuple([csrc.ipsf_drop_text(i).decode() for i in range(csrc.IPSF_DROP_COUNT)])
DROP_HELP = tuple([csrc.ipsf_drop_help(i).decode() for i in range(csrc.IPSF_DROP_COUNT)])

cdef dict _MODES = {Mode.TUNNEL: csrc.IPSF_MODE_TUNNEL, Mode.TRANSPORT: csrc.IPSF_MODE_TRANSPORT}
cdef dict _ACTIONS = {
    PolicyAction.DISCARD: csrc.IPSF_DISCARD,
    PolicyAction.BYPASS: csrc.IPSF_BYPASS,
    PolicyAction.PROTECT: csrc.IPSF_PROTECT,
}
cdef dict _COPIES = {
    CopyField.NO: csrc.IPSF_COPY_NO,
    CopyField.OUT: csrc.IPSF_COPY_OUT,
    CopyField.IN: csrc.IPSF_COPY_IN,
    CopyField.YES: csrc.IPSF_COPY_YES,
}


# ---- errors ----


cdef int check(int code, object what) except -1:
    """Gives back a code that is no error; else raises, with `what` was tried before the reason."""
    cdef int number = errno
    cdef const char *reason
    if code >= 0:
        return code
    if code == csrc.IPSF_ENOMEM:
        raise MemoryError(what)
    reason = <const char *>strerror(number) if code == csrc.IPSF_ESYS else csrc.ipsf_error_text(code)
    raise DataPlaneError(f"{what}: {reason.decode()}")


cdef uint64_t unsigned_value(object value, object bits, object name) except? 0:
    number = index(value)
    if not 0 <= number < 1 << bits:
        raise DataPlaneError(f"{name} is {number}; right is 0 to {(1 << bits) - 1}")
    return number


cdef object _choice(dict table, object value, str name):
    if value not in table:
        raise DataPlaneError(f"{name} is {value!r}; right is one of {', '.join(str(key) for key in table)}")
    return table[value]


# ---- engines ----


cdef const char *engine_name(bytes name) except NULL:
    """The engine that `name` stands for ("auto": the best here); the text is C's own and stays."""
    cdef const char *chosen = csrc.ipsf_engine_choose(name)
    if chosen == NULL:
        raise DataPlaneError(f"no engine {name.decode()!r} on this machine; there is: auto, {', '.join(ENGINES)}")
    return chosen


def choose_engine(str name not None="auto"):
    """The name of the engine that `name` stands for; "auto" is the best that this machine can run.

    Raises DataPlaneError when there is none of that name.
    """
    return engine_name(name.encode()).decode()


def esp_overhead(encryption, mode, udp_encap, outer_version):
    """Bytes that ESP puts around a packet at most: outer IP header, UDP header, ESP header, IV, padding, trailer, ICV.

    `encryption` is the IANA transform ID (20: AES-GCM-16), `mode` "tunnel" or "transport", `outer_version` 4 or 6.
    The MTU of a tunnel device is the path's MTU less this. Raises DataPlaneError for an unknown algorithm or mode.
    """
    cdef uint64_t transform = unsigned_value(encryption, 16, "encryption")
    cdef int mode_number = _choice(_MODES, mode, "mode")
    if outer_version not in (4, 6):
        raise DataPlaneError(f"outer_version is {outer_version!r}; right is 4 or 6")
    return check(
        csrc.ipsf_esp_overhead(transform, mode_number, bool(udp_encap), outer_version),
        f"ESP overhead of encryption {transform}",
    )


# ---- addresses, paths, selectors ----


cdef int fill_address(csrc.ipsf_addr *out, object address) except -1:
    if not isinstance(address, (IPv4Address, IPv6Address)):
        raise TypeError(f"an address is an IPv4Address or IPv6Address, not {type(address).__name__}")
    cdef bytes packed = address.packed
    memset(out, 0, sizeof(out[0]))
    memcpy(out.bytes, <const char *>packed, len(packed))
    out.version = address.version
    return 0


cdef object _address_value(const csrc.ipsf_addr *address):
    """An IP address, or None where there is none."""
    if address.version == 4:
        return IPv4Address((<const char *>address.bytes)[:4])
    if address.version == 6:
        return IPv6Address((<const char *>address.bytes)[:16])
    return None


cdef int fill_path(csrc.ipsf_path *out, object path) except -1:
    fill_address(&out.local, path.local)
    fill_address(&out.remote, path.remote)
    if out.local.version != out.remote.version:
        raise DataPlaneError(f"a path has both ends in one IP version: {path}")
    out.local_port = unsigned_value(path.local_port, 16, "local port")
    out.remote_port = unsigned_value(path.remote_port, 16, "remote port")
    return 0


cdef object path_value(const csrc.ipsf_path *path):
    """A Path, or None where C knows no remote address. A local address that C doesn't know is the unspecified one."""
    remote = _address_value(&path.remote)
    if remote is None:
        return None
    local = _address_value(&path.local) or type(remote)(0)
    return Path(local, path.local_port, remote, path.remote_port)


cdef int _fill_selector(csrc.ipsf_selector *out, object selector) except -1:
    """`TrafficSelector` has checked its own ranges."""
    fill_address(&out.first, selector.start)
    fill_address(&out.last, selector.end)
    out.port_first = selector.port_start
    out.port_last = selector.port_end
    out.protocol = selector.protocol
    return 0


cdef object selector_value(const csrc.ipsf_selector *selector):
    first, last = _address_value(&selector.first), _address_value(&selector.last)
    return TrafficSelector(first, last, selector.protocol, selector.port_first, selector.port_last)


cdef dict drops_value(const uint64_t *drops):
    """{reason: packets} of those reasons that occurred."""
    return {DROP_REASONS[i]: drops[i] for i in range(1, csrc.IPSF_DROP_COUNT) if drops[i]}


# ---- SAs ----


@cython.final
cdef class SaParamsStruct:
    def __cinit__(self, params):
        self.text = f"SA 0x{unsigned_value(params.spi, 32, 'spi'):08x}"
        self._fill_numbers(params)
        self._fill_key(params.key)
        self._fill_selectors(params.local_ts, params.remote_ts)
        fill_path(&self.c.path, params.path)
        self.c.mode = _choice(_MODES, params.mode, "mode")
        self.c.copy_dscp = _choice(_COPIES, params.copy_dscp, "copy_dscp")
        self.c.copy_df = csrc.IPSF_COPY_YES if params.copy_df else csrc.IPSF_COPY_NO
        self.c.copy_ecn = csrc.IPSF_COPY_YES if params.copy_ecn else csrc.IPSF_COPY_NO
        self.c.udp_encap = bool(params.udp_encap)
        self.c.esn = bool(params.esn)

    cdef int _fill_numbers(self, params) except -1:
        self.c.spi = unsigned_value(params.spi, 32, "spi")
        self.c.reqid = unsigned_value(params.reqid, 32, "reqid")
        self.c.encryption = unsigned_value(params.encryption, 16, "encryption")
        self.c.tfc_padding = unsigned_value(params.tfc_padding, 16, "tfc_padding")
        self.c.replay_window = unsigned_value(params.replay_window, 32, "replay_window")
        self.c.soft_bytes = unsigned_value(params.soft_bytes, 64, "soft_bytes")
        self.c.hard_bytes = unsigned_value(params.hard_bytes, 64, "hard_bytes")
        self.c.soft_packets = unsigned_value(params.soft_packets, 64, "soft_packets")
        self.c.hard_packets = unsigned_value(params.hard_packets, 64, "hard_packets")
        self.c.initial_sequence = unsigned_value(params.initial_sequence, 64, "initial_sequence")
        self.c.resource = unsigned_value(params.resource, 8, "resource")
        self.c.resources = unsigned_value(params.resources, 8, "resources")
        self.c.by_dscp = len(params.dscp) > 0
        for number, resource in params.dscp:
            self.c.dscp[unsigned_value(number, 6, "DSCP")] = unsigned_value(resource, 8, "resource of a DSCP")
        return 0

    cdef int _fill_key(self, bytes key) except -1:
        if key is None or len(key) > csrc.IPSF_KEY_MAX:
            raise DataPlaneError(f"{self.text}: a key has at most {csrc.IPSF_KEY_MAX} bytes, the salt included")
        memcpy(self.c.key, <const char *>key, len(key))
        self.c.key_length = len(key)
        return 0

    cdef int _fill_selectors(self, local, remote) except -1:
        cdef size_t i, n_local = len(local), n_remote = len(remote)
        self._selectors = <csrc.ipsf_selector *>calloc(n_local + n_remote + 1, sizeof(csrc.ipsf_selector))
        if self._selectors == NULL:
            raise MemoryError(self.text)
        for i, selector in enumerate((*local, *remote)):
            _fill_selector(&self._selectors[i], selector)
        self.c.local_ts, self.c.n_local_ts = self._selectors, n_local
        self.c.remote_ts, self.c.n_remote_ts = self._selectors + n_local, n_remote
        return 0

    def __dealloc__(self):
        explicit_bzero(&self.c, sizeof(self.c))
        free(self._selectors)


# ---- SPD ----


@cython.final
cdef class PolicyArray:
    def __cinit__(self, policies):
        cdef size_t i
        values = tuple(policies)
        self.items = <csrc.ipsf_policy *>calloc(len(values) + 1, sizeof(csrc.ipsf_policy))
        if self.items == NULL:
            raise MemoryError("SPD")
        self.count = len(values)
        for i, policy in enumerate(values):
            _fill_policy(&self.items[i], policy, i)

    def __dealloc__(self):
        free(self.items)


cdef int _fill_policy(csrc.ipsf_policy *out, object policy, size_t position) except -1:
    """One packet has one protocol and one version: what the selectors of a pair say must go together."""
    source, destination = policy.source, policy.destination
    if source.version != destination.version:
        raise DataPlaneError(f"policy {position}: {source} and {destination} are of different IP versions")
    if source.protocol and destination.protocol and source.protocol != destination.protocol:
        raise DataPlaneError(f"policy {position}: {source} and {destination} name different protocols")
    _fill_selector(&out.source, source)
    _fill_selector(&out.destination, destination)
    out.source.protocol = out.destination.protocol = source.protocol or destination.protocol
    out.reqid = unsigned_value(policy.reqid, 32, f"reqid of policy {position}")
    out.action = _choice(_ACTIONS, policy.action, f"action of policy {position}")
    out.flags = csrc.IPSF_POLICY_HOLD if policy.hold else 0
    return 0


@cython.final
cdef class HopArray:
    """From a sequence of `NextHop`; raises DataPlaneError for a hardware address that isn't 6 bytes."""

    def __cinit__(self, hops):
        cdef list entries = list(hops)
        cdef csrc.ipsf_hop *item
        self.items = <csrc.ipsf_hop *>calloc(len(entries) if entries else 1, sizeof(csrc.ipsf_hop))
        if self.items == NULL:
            raise MemoryError("next hops")
        for hop in entries:
            item = &self.items[self.count]
            fill_address(&item.network, hop.network.network_address)
            item.prefix_length = hop.network.prefixlen
            item.mtu = unsigned_value(hop.mtu, 32, "MTU")
            fill_hardware(item.destination, hop.destination)
            fill_hardware(item.source, hop.source)
            self.count += 1

    def __dealloc__(self):
        free(self.items)


cdef int fill_hardware(uint8_t *out, bytes address) except -1:
    """An Ethernet address of 6 bytes."""
    if len(address) != 6:
        raise DataPlaneError(f"a hardware address has 6 bytes, not {len(address)}: {address.hex(':')}")
    memcpy(out, <const char *>address, 6)
    return 0


# ---- events ----


cdef object event_value(const csrc.ipsf_event *event, const uint8_t *data):
    """csrc/tables/events.def -> ipsecfast/model.py, entry by entry."""
    if event.kind == csrc.IPSF_EVENT_ACQUIRE:
        return Acquire(event.reqid, selector_value(&event.source), selector_value(&event.destination), event.resource)
    if event.kind == csrc.IPSF_EVENT_FIRST_INBOUND:
        return FirstInbound(event.spi)
    if event.kind == csrc.IPSF_EVENT_PEER_MOVED:
        return PeerMoved(event.spi, path_value(&event.path))
    if event.kind == csrc.IPSF_EVENT_SOFT_LIFETIME:
        return SoftLifetime(event.reqid, event.spi, event.inbound != 0)
    if event.kind == csrc.IPSF_EVENT_HARD_LIFETIME:
        return HardLifetime(event.reqid, event.spi, event.inbound != 0)
    if event.kind == csrc.IPSF_EVENT_UNKNOWN_SPI:
        return UnknownSpi(event.spi, path_value(&event.path))
    if event.kind == csrc.IPSF_EVENT_IKE_DATAGRAM:
        return IkeDatagram(path_value(&event.path), (<const char *>data)[:event.length])
    raise DataPlaneError(f"event of the unknown kind {event.kind}")
