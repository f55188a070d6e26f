# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The data plane as a library over numpy: seal and open batches of packets, ask an SPD, drive a replay window.

    batch = PacketBatch.from_packets([packet, ...])      # whole IP packets
    sealed, reasons = OutboundSa(params).seal(batch)     # bare ESP datagrams; reasons[i] indexes DROP_REASONS
    opened, reasons = InboundSa(params).open(sealed)

A bad packet is never an exception: it has length 0 and a reason. Wrong arguments raise TypeError (not an array, another
dtype) or ValueError (shape, range); an SA that can't be made raises DataPlaneError. Calls on one object from several
threads wait for each other; the GIL is free while C works.
"""

from ipaddress import ip_address
from operator import index

import numpy as np

cimport cython
cimport numpy as cnp
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ipsecfast cimport csrc
from ipsecfast.arrays cimport policies_of
from ipsecfast.values cimport PolicyArray, SaParamsStruct, check, engine_name

cnp.import_array()


# ---- arrays ----


cdef cnp.ndarray _checked(object array, str name, int kind, bint writable=False):
    """`array` itself when it is a contiguous vector of the type number `kind`; says what is wrong with it otherwise."""
    if not isinstance(array, cnp.ndarray):
        raise TypeError(f"{name} is a numpy array, not {type(array).__name__}")
    cdef cnp.ndarray vector = <cnp.ndarray>array
    if not cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(vector), kind) or not cnp.PyArray_ISNOTSWAPPED(vector):
        raise TypeError(f"{name} is of dtype {cnp.PyArray_DescrFromType(kind)}, not {array.dtype}")
    if cnp.PyArray_NDIM(vector) != 1 or not cnp.PyArray_IS_C_CONTIGUOUS(vector) or not cnp.PyArray_ISALIGNED(vector):
        raise ValueError(f"{name} has one dimension and is contiguous; shape {array.shape}, strides {array.strides}")
    if writable and not cnp.PyArray_ISWRITEABLE(vector):
        raise ValueError(f"{name} is written to, but the array is read-only")
    return vector


cdef object _numbers(object values, str name, object dtype, Py_ssize_t count):
    """`count` integers as a contiguous vector of `dtype`: no copy where the array is one already."""
    array = np.ascontiguousarray(values)
    if array.dtype != dtype:
        if array.size and array.dtype.kind not in "iu":
            raise TypeError(f"{name} holds integers, not {array.dtype}")
        if array.size and (array.min() < 0 or array.max() > np.iinfo(dtype).max):
            raise ValueError(f"{name} holds {array.min()} to {array.max()}; right is 0 to {np.iinfo(dtype).max}")
        array = array.astype(dtype)
    if array.ndim != 1 or (count >= 0 and array.shape[0] != count):
        raise ValueError(f"{name} has the shape {array.shape}; right is {(count,) if count >= 0 else '(n,)'}")
    return array


cdef bint _apart(const void *a, size_t a_size, const void *b, size_t b_size):
    cdef const uint8_t *first = <const uint8_t *>a
    cdef const uint8_t *second = <const uint8_t *>b
    return first + a_size <= second or second + b_size <= first


@cython.final
cdef class PacketBatch:
    """Packets in one piece of memory: packet i is data[offsets[i] : offsets[i] + lengths[i]].

    `data` uint8[size] bytes, `offsets` uint64[n], `lengths` uint32[n] bytes. The arrays are used as they are, not copied;
    don't resize them. Raises TypeError for another dtype, ValueError for arrays that are not contiguous vectors, differ in
    length, or name bytes outside of `data`.
    """

    cdef readonly cnp.ndarray data
    cdef readonly cnp.ndarray offsets
    cdef readonly cnp.ndarray lengths
    cdef csrc.ipsf_packets _c

    def __cinit__(self, data, offsets, lengths):
        self.data = _checked(data, "data", cnp.NPY_UINT8)
        self.offsets = _checked(offsets, "offsets", cnp.NPY_UINT64)
        self.lengths = _checked(lengths, "lengths", cnp.NPY_UINT32)
        if len(offsets) != len(lengths):
            raise ValueError(f"{len(offsets)} offsets and {len(lengths)} lengths")
        self._c.data, self._c.size = <uint8_t *>cnp.PyArray_DATA(self.data), len(data)
        self._c.offsets = <uint64_t *>cnp.PyArray_DATA(self.offsets)
        self._c.lengths = <uint32_t *>cnp.PyArray_DATA(self.lengths)
        self._c.count = len(offsets)
        self._check_inside()

    @classmethod
    def from_packets(cls, packets):
        """Copies a sequence of bytes-like packets behind each other."""
        lengths = np.array([len(packet) for packet in packets], np.uint32)
        ends = np.cumsum(lengths, dtype=np.uint64)
        return cls(np.frombuffer(bytearray().join(packets), np.uint8), ends - lengths, lengths)

    @classmethod
    def with_room(cls, packets):
        """Copies packets behind each other with the room between them that `OutboundSa.seal` needs to seal in place."""
        lengths = np.array([len(packet) for packet in packets], np.uint32)
        ends = np.cumsum(lengths + np.uint32(csrc.IPSF_ESP_ROOM), dtype=np.uint64)
        before, behind = bytes(csrc.IPSF_ESP_HEADROOM), bytes(csrc.IPSF_ESP_ROOM - csrc.IPSF_ESP_HEADROOM)
        data = bytearray().join(part for packet in packets for part in (before, packet, behind))
        return cls(np.frombuffer(data, np.uint8), ends - lengths - len(behind), lengths)

    @classmethod
    def empty(cls, count, size):
        """A place for the output of seal() or open(): `count` packets of no length, `size` bytes."""
        return cls(np.empty(size, np.uint8), np.zeros(count, np.uint64), np.zeros(count, np.uint32))

    cdef uint64_t _check_inside(self) except? 0:
        """The arrays belong to the caller, who may have written to them: bytes in all packets, all inside of `data`."""
        cdef size_t i
        cdef uint64_t total = 0
        for i in range(self._c.count):
            if self._c.offsets[i] > self._c.size or self._c.lengths[i] > self._c.size - self._c.offsets[i]:
                raise ValueError(f"packet {i} lies at {self._c.offsets[i]}, {self._c.lengths[i]} bytes long; "
                                 f"data has {self._c.size} bytes")
            total += self._c.lengths[i]
        return total

    cdef int _check_output(self, const csrc.ipsf_packets *packets, uint64_t needed) except -1:
        """Whether this batch can take `needed` bytes that come of `packets`."""
        if self._c.count != packets.count:
            raise ValueError(f"out has room for {self._c.count} packets, there are {packets.count}")
        if self._c.size < needed:
            raise ValueError(f"out.data has {self._c.size} bytes, {needed} are needed")
        if not (_apart(self._c.data, self._c.size, packets.data, packets.size)
                and _apart(self._c.offsets, 8 * packets.count, packets.offsets, 8 * packets.count)
                and _apart(self._c.lengths, 4 * packets.count, packets.lengths, 4 * packets.count)):
            raise ValueError("the arrays of out overlap those of the input")
        return self._check_writeable()

    cdef int _check_writeable(self) except -1:
        if not (cnp.PyArray_ISWRITEABLE(self.data) and cnp.PyArray_ISWRITEABLE(self.offsets)
                and cnp.PyArray_ISWRITEABLE(self.lengths)):
            raise ValueError("out is written to, but one of its arrays is read-only")
        return 0

    def __len__(self):
        return self._c.count

    def __getitem__(self, place):
        """Packet `place` as a view uint8[length]."""
        cdef Py_ssize_t i = place, count = self._c.count
        if not -count <= i < count:
            raise IndexError(f"packet {place} of {count}")
        i %= count
        return self.data[self._c.offsets[i]:self._c.offsets[i] + self._c.lengths[i]]

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))


# ---- SAs ----


cdef PacketBatch _output(PacketBatch packets, PacketBatch out, uint64_t room):
    """Where seal() and open() write: what the caller gave or a new batch; `room` is what each packet may grow by, bytes."""
    if out is packets:
        out._check_writeable()
        return out
    cdef uint64_t needed = packets._check_inside() + packets._c.count * room
    if out is None:
        return PacketBatch.empty(packets._c.count, needed)
    out._check_output(&packets._c, needed)
    return out


cdef int _done(int code, PacketBatch packets, str what) except -1:
    """The errors of ipsf_seal() and ipsf_open() that are the caller's arrays' fault are ValueErrors that name the place."""
    if code == csrc.IPSF_EINVAL:
        packets._check_inside()
    if code == csrc.IPSF_ENOSPC:
        raise ValueError(f"in place, packets stand in the order of their offsets, each with {csrc.IPSF_ESP_HEADROOM} bytes "
                         f"before and {csrc.IPSF_ESP_ROOM - csrc.IPSF_ESP_HEADROOM} behind it: PacketBatch.with_room()")
    return check(code, what)


cdef cnp.ndarray _reasons(object reasons, Py_ssize_t count):
    if reasons is None:
        return np.empty(count, np.uint8)
    cdef cnp.ndarray given = _checked(reasons, "reasons", cnp.NPY_UINT8, True)
    if cnp.PyArray_DIM(given, 0) != count:
        raise ValueError(f"reasons has {len(given)} places, there are {count} packets")
    return given


@cython.final
cdef class OutboundSa:
    """Seals packets with one SA: RFC 4303 s3.3.

    Raises DataPlaneError when the parameters can't make an SA or there is no such engine.
    """

    cdef csrc.ipsf_sa_out *_sa
    cdef cython.pymutex _lock

    def __cinit__(self, params, *, str engine not None="auto"):
        cdef SaParamsStruct values = SaParamsStruct(params)
        check(csrc.ipsf_sa_out_new(&values.c, engine_name(engine.encode()), &self._sa), f"outbound {values.text}")

    def __dealloc__(self):
        csrc.ipsf_sa_out_free(self._sa)

    def seal(self, PacketBatch packets not None, PacketBatch out=None, *, reasons=None):
        """Seals whole IP packets in their order; gives back the batch of results and uint8[n] indices into DROP_REASONS.

        In tunnel mode a result is the bare ESP datagram, without outer header; in transport mode an IP packet with its ESP
        inside. Packet i's result is i of the output; it has length 0 where its reason is not 0. Sequence numbers rise by one
        a sealed packet. `out` and `reasons` take the results where they are given: len(out) == n, `out.data` of at least
        the sum of lengths + 64 n bytes that don't overlap the input. Where `out` is `packets` itself nothing is copied: each
        packet is sealed where it stands, and needs 16 bytes before and 48 behind it, as `PacketBatch.with_room` leaves.
        Raises ValueError where something doesn't fit.
        """
        out = _output(packets, out, csrc.IPSF_ESP_ROOM)
        cdef cnp.ndarray why = _reasons(reasons, packets._c.count)
        cdef uint8_t *reason = <uint8_t *>cnp.PyArray_DATA(why)
        cdef int code
        with nogil:
            with self._lock:
                code = csrc.ipsf_seal(self._sa, &packets._c, &out._c, reason)
        _done(code, packets, "seal")
        return out, why

    @property
    def sequence(self):
        """The last sequence number used, 64 bits with ESN."""
        return csrc.ipsf_sa_out_sequence(self._sa)


@cython.final
cdef class InboundSa:
    """Opens packets of one SA: RFC 4303 s3.4.

    Raises DataPlaneError when the parameters can't make an SA or there is no such engine.
    """

    cdef csrc.ipsf_sa_in *_sa
    cdef cython.pymutex _lock

    def __cinit__(self, params, *, str engine not None="auto"):
        cdef SaParamsStruct values = SaParamsStruct(params)
        check(csrc.ipsf_sa_in_new(&values.c, engine_name(engine.encode()), &self._sa), f"inbound {values.text}")

    def __dealloc__(self):
        csrc.ipsf_sa_in_free(self._sa)

    def open(self, PacketBatch packets not None, PacketBatch out=None, *, reasons=None):
        """Opens ESP in the order of the batch; gives back the batch of inner IP packets and uint8[n] indices into
        DROP_REASONS.

        Takes what `OutboundSa.seal` gives: bare ESP datagrams in tunnel mode, IP packets with ESP inside in transport mode.
        Checks SPI, anti-replay window, ICV, trailer and the SA's traffic selectors. A result has length 0 where its reason is
        not 0. `out` and `reasons` take the results where they are given: len(out) == n, `out.data` of at least the sum of
        lengths that don't overlap the input; or `out` is `packets` itself, which is then opened in place. Raises ValueError
        where something doesn't fit.
        """
        out = _output(packets, out, 0)
        cdef cnp.ndarray why = _reasons(reasons, packets._c.count)
        cdef uint8_t *reason = <uint8_t *>cnp.PyArray_DATA(why)
        cdef int code
        with nogil:
            with self._lock:
                code = csrc.ipsf_open(self._sa, &packets._c, &out._c, reason)
        _done(code, packets, "open")
        return out, why


# ---- the engine alone ----


cdef int _raw(bint opening, str engine, bytes key, object data, Py_ssize_t length, Py_ssize_t stride,
              size_t rounds) except -1:
    cdef cnp.ndarray array = _checked(data, "data", cnp.NPY_UINT8, True)
    if not 0 < length <= stride - csrc.IPSF_ESP_ROOM:
        raise ValueError(f"length {length} leaves no {csrc.IPSF_ESP_ROOM} bytes of a stride of {stride}")
    cdef const char *name = engine_name(engine.encode())
    cdef const uint8_t *secret = <const uint8_t *><const char *>key
    cdef size_t key_length = len(key), n = len(array) // stride
    cdef uint8_t *text = <uint8_t *>cnp.PyArray_DATA(array)
    cdef int code
    with nogil:
        if opening:
            code = csrc.ipsf_raw_open(name, secret, key_length, text, length, stride, n, rounds)
        else:
            code = csrc.ipsf_raw_seal(name, secret, key_length, text, length, stride, n, rounds)
    return check(code, f"raw AEAD of {engine}")


def raw_seal(str engine not None, bytes key not None, data, length, stride, rounds=1):
    """The AEAD alone, for benchmarks: seals `length` bytes at each `stride` of `data` uint8[n * stride], `rounds` times.

    `key` is the AES key without salt; every seal has an IV of its own and 8 bytes of AAD. `stride` leaves at least 64 bytes
    behind the text. Raises DataPlaneError for an unknown engine or key length.
    """
    _raw(False, engine, key, data, length, stride, rounds)


def raw_open(str engine not None, bytes key not None, data, length, stride, rounds=1):
    """The AEAD alone, for benchmarks: opens as `raw_seal` seals. The ICV of each is computed and compared."""
    _raw(True, engine, key, data, length, stride, rounds)


# ---- anti-replay ----


cdef uint64_t _bounded(object value, object bits, str name) except? 0:
    number = index(value)
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{name} is {number}; right is 0 to {(1 << bits) - 1}")
    return number


@cython.final
cdef class ReplayWindow:
    """The anti-replay window of RFC 4303 s3.4.3 and appendix A: `size` packets, 64 to 65,536 (0: accepts everything).

    Without `esn` sequence numbers have 32 bits, with it 64 (app. A2.2: `reconstruct` finds the upper half).
    Raises DataPlaneError for another size.
    """

    cdef csrc.ipsf_replay *_window
    cdef int _bits
    cdef cython.pymutex _lock

    def __cinit__(self, size=2048, *, esn=False):
        cdef uint32_t packets = _bounded(size, 32, "size")
        self._bits = 64 if esn else 32
        check(csrc.ipsf_replay_new(packets, bool(esn), &self._window), f"replay window of {packets} packets")

    def __dealloc__(self):
        csrc.ipsf_replay_free(self._window)

    def check(self, sequence):
        """True when the number is right of the window, or inside and not seen: what is asked before the ICV is verified."""
        cdef uint64_t number = _bounded(sequence, self._bits, "sequence")
        with self._lock:
            return csrc.ipsf_replay_check(self._window, number) == 1

    def update(self, sequence):
        """Marks the number as seen, moves the window; False when it was seen or is left of the window."""
        cdef uint64_t number = _bounded(sequence, self._bits, "sequence")
        with self._lock:
            return csrc.ipsf_replay_update(self._window, number) == 1

    def accept(self, sequences):
        """`update` for each of uint64[n], in their order: uint8[n], 1 where accepted."""
        cdef cnp.ndarray array = _checked(sequences, "sequences", cnp.NPY_UINT64)
        cdef cnp.ndarray accepted = np.empty(len(array), np.uint8)
        cdef const uint64_t *number = <const uint64_t *>cnp.PyArray_DATA(array)
        cdef uint8_t *out = <uint8_t *>cnp.PyArray_DATA(accepted)
        cdef uint64_t last = <uint64_t>0xFFFFFFFFFFFFFFFF >> (64 - self._bits)
        cdef size_t i, count = len(array)
        with nogil:
            with self._lock:
                for i in range(count):
                    out[i] = number[i] <= last and csrc.ipsf_replay_update(self._window, number[i]) == 1
        return accepted

    def reconstruct(self, low):
        """The 64-bit number that `low`, the 32 bits of an ESP header, stands for (RFC 4303 app. A2.2)."""
        cdef uint32_t number = _bounded(low, 32, "low")
        with self._lock:
            return csrc.ipsf_replay_reconstruct(self._window, number)

    @property
    def top(self):
        """The highest number accepted so far."""
        with self._lock:
            return csrc.ipsf_replay_top(self._window)


# ---- SPD ----


@cython.final
cdef class Spd:
    """A compiled, immutable SPD: ordered policies, the first that matches decides (RFC 4301 s4.4.1).

    Takes a sequence of `ipsecfast.model.Policy` or an array of POLICY_DTYPE (`ipsecfast.arrays`). Where one selector of a policy names a protocol, it holds for the packet;
    raises DataPlaneError where the two contradict each other.
    """

    cdef csrc.ipsf_spd *_spd

    def __cinit__(self, policies):
        cdef PolicyArray array = policies_of(policies)
        cdef int code
        with nogil:
            code = csrc.ipsf_spd_compile(array.items, array.count, &self._spd)
        check(code, f"SPD of {array.count} policies")

    def __dealloc__(self):
        csrc.ipsf_spd_free(self._spd)

    def __len__(self):
        return csrc.ipsf_spd_count(self._spd)

    @property
    def nbytes(self):
        """Bytes of memory that it occupies."""
        return csrc.ipsf_spd_memory(self._spd)

    def lookup(self, source, destination, protocol, source_port, destination_port):
        """Which policy each of n packets meets first: int32[n], the policy's index, or -1 where none matches.

        Addresses are uint8[n, 4] or uint8[n, 16] in network order, uint32[n] for IPv4 in host order, or a sequence of addresses
        (objects or text); all of one IP version. `protocol` is uint8[n], ports are uint16[n] in host order; for ICMP
        both ports are type << 8 | code. Raises TypeError or ValueError for what is none of these.
        """
        version, sources = _addresses(source, "source")
        other_version, destinations = _addresses(destination, "destination")
        if version != other_version or len(sources) != len(destinations):
            raise ValueError(f"source: {len(sources)} of IPv{version}, destination: {len(destinations)} of IPv{other_version}")
        cdef Py_ssize_t count = len(sources)
        cdef cnp.ndarray protocols = _numbers(protocol, "protocol", np.uint8, count)
        cdef cnp.ndarray from_ports = _numbers(source_port, "source_port", np.uint16, count)
        cdef cnp.ndarray to_ports = _numbers(destination_port, "destination_port", np.uint16, count)
        cdef cnp.ndarray found = np.empty(count, np.int32)
        cdef const uint8_t *src = <const uint8_t *>cnp.PyArray_DATA(sources)
        cdef const uint8_t *dst = <const uint8_t *>cnp.PyArray_DATA(destinations)
        cdef const uint8_t *proto = <const uint8_t *>cnp.PyArray_DATA(protocols)
        cdef const uint16_t *sport = <const uint16_t *>cnp.PyArray_DATA(from_ports)
        cdef const uint16_t *dport = <const uint16_t *>cnp.PyArray_DATA(to_ports)
        cdef int32_t *out = <int32_t *>cnp.PyArray_DATA(found)
        cdef uint8_t ip_version = version
        with nogil:
            csrc.ipsf_spd_lookup_array(self._spd, ip_version, src, dst, proto, sport, dport, count, out)
        return found


cdef tuple _addresses(object value, str name):
    """(IP version, uint8[n, 16]): addresses in network order, IPv4 in the first four bytes."""
    if not isinstance(value, np.ndarray):
        return _packed_addresses([ip_address(one) for one in value], name)
    if value.dtype == np.uint32 and value.ndim == 1:
        value = value.astype(">u4").view(np.uint8).reshape(-1, 4)
    if value.dtype != np.uint8:
        raise TypeError(f"{name} is uint8[n, 4], uint8[n, 16] or uint32[n], not {value.dtype}{list(value.shape)}")
    if value.ndim != 2 or value.shape[1] not in (4, 16):
        raise ValueError(f"{name} is uint8[n, 4], uint8[n, 16] or uint32[n], not {value.dtype}{list(value.shape)}")
    if value.shape[1] == 16:
        return 6, np.ascontiguousarray(value)
    padded = np.zeros((len(value), 16), np.uint8)
    padded[:, :4] = value
    return 4, padded


cdef tuple _packed_addresses(list addresses, str name):
    versions = {address.version for address in addresses}
    if len(versions) > 1:
        raise ValueError(f"{name} holds addresses of both IP versions")
    packed = b"".join([address.packed.ljust(16, b"\0") for address in addresses])
    return max(versions, default=4), np.frombuffer(packed, np.uint8).reshape(-1, 16)
