# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""Policies and SAs by the hundred thousand: numpy arrays in the layout of the data plane, without an object for each.

    policies = np.zeros(100_000, POLICY_DTYPE)
    policies["source"]["first"]["version"] = 4           # addresses in network order, IPv4 in the first four bytes
    policies["source"]["first"]["bytes"][:, :4] = ...
    plane.publish_spd(policies)                          # wherever a sequence of Policy may stand

A row means what `ipsecfast.model` says of the field of that name; numbers stand for its enumerations: `action` as
PolicyAction, `mode` 0 tunnel and 1 transport, `copy_dscp` 0 no, 1 out, 2 in, 3 yes; any port is `port_first` 0, `port_last`
65,535. What is checked of one is checked of each: DataPlaneError names the row.
"""

import numpy as np

from ipsecfast.errors import DataPlaneError

cimport cython
cimport numpy as cnp
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ipsecfast.values cimport SaParamsStruct

cnp.import_array()

cdef extern from "string.h" nogil:
    void explicit_bzero(void *data, size_t size)

ADDRESS_DTYPE = np.dtype([("bytes", np.uint8, 16), ("version", np.uint8)])
SELECTOR_DTYPE = np.dtype(
    [("first", ADDRESS_DTYPE), ("last", ADDRESS_DTYPE), ("port_first", np.uint16), ("port_last", np.uint16),
     ("protocol", np.uint8)],
    align=True,
)
PATH_DTYPE = np.dtype(
    [("local", ADDRESS_DTYPE), ("remote", ADDRESS_DTYPE), ("local_port", np.uint16), ("remote_port", np.uint16)], align=True
)
POLICY_DTYPE = np.dtype(
    [("source", SELECTOR_DTYPE), ("destination", SELECTOR_DTYPE), ("reqid", np.uint32), ("action", np.uint8),
     ("hold", np.bool_)],
    align=True,
)
SA_DTYPE = np.dtype(
    [("spi", np.uint32), ("reqid", np.uint32), ("encryption", np.uint16), ("key", np.uint8, csrc.IPSF_KEY_MAX),
     ("key_length", np.uint8), ("mode", np.uint8), ("udp_encap", np.bool_), ("esn", np.bool_), ("copy_df", np.bool_),
     ("copy_ecn", np.bool_), ("copy_dscp", np.uint8), ("tfc_padding", np.uint16), ("replay_window", np.uint32),
     ("path", PATH_DTYPE),
     ("local_ts", SELECTOR_DTYPE), ("remote_ts", SELECTOR_DTYPE), ("soft_bytes", np.uint64), ("hard_bytes", np.uint64),
     ("soft_packets", np.uint64), ("hard_packets", np.uint64), ("initial_sequence", np.uint64)],
    align=True,
)
SA_COUNT_DTYPE = np.dtype(
    [("spi", np.uint32), ("reqid", np.uint32), ("inbound", np.bool_), ("active", np.bool_), ("packets", np.uint64),
     ("bytes", np.uint64), ("sequence", np.uint64), ("drops", np.uint64)],
    align=True,
)


cdef struct sa_row: # SA_DTYPE
    uint32_t spi
    uint32_t reqid
    uint16_t encryption
    uint8_t key[csrc.IPSF_KEY_MAX]
    uint8_t key_length
    uint8_t mode
    uint8_t udp_encap
    uint8_t esn
    uint8_t copy_df
    uint8_t copy_ecn
    uint8_t copy_dscp
    uint16_t tfc_padding
    uint32_t replay_window
    csrc.ipsf_path path
    csrc.ipsf_selector local_ts
    csrc.ipsf_selector remote_ts
    uint64_t soft_bytes
    uint64_t hard_bytes
    uint64_t soft_packets
    uint64_t hard_packets
    uint64_t initial_sequence


if (POLICY_DTYPE.itemsize != sizeof(csrc.ipsf_policy) or SA_DTYPE.itemsize != sizeof(sa_row)
        or SA_COUNT_DTYPE.itemsize != sizeof(csrc.ipsf_sa_count)):
    raise ImportError("the arrays' layout is not that of the C structs on this machine")


cdef cnp.ndarray _vector(object array, object dtype, str name):
    if array.dtype != dtype:
        raise TypeError(f"an array of {name} is of dtype {name.upper()}_DTYPE, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"an array of {name} has one dimension, not the shape {array.shape}")
    return np.ascontiguousarray(array)


# ---- policies ----


cdef str _fault(const csrc.ipsf_policy *policy):
    """What is wrong with a policy that C refuses."""
    source, destination = policy.source, policy.destination
    versions = {source.first.version, source.last.version, destination.first.version, destination.last.version}
    if len(versions) > 1:
        return "its addresses are of different IP versions"
    if versions not in ({4}, {6}):
        return f"its addresses are of IP version {versions.pop()}"
    if source.protocol and destination.protocol and source.protocol != destination.protocol:
        return f"source and destination name different protocols, {source.protocol} and {destination.protocol}"
    if policy.action > csrc.IPSF_PROTECT:
        return f"its action is {policy.action}; right is 0 to {csrc.IPSF_PROTECT}"
    if policy.action == csrc.IPSF_PROTECT and policy.reqid == 0:
        return "it protects, but names no reqid"
    return "a range of addresses or ports ends before it begins"


cdef PolicyArray policies_of(object policies):
    """A sequence of Policy or an array of POLICY_DTYPE as C has it: a copy."""
    cdef cnp.ndarray array
    cdef PolicyArray values
    cdef size_t i, valid
    if not isinstance(policies, np.ndarray):
        return PolicyArray(policies)
    array = _vector(policies, POLICY_DTYPE, "policy")
    values = PolicyArray(())
    free(values.items)
    values.count = len(array)
    values.items = <csrc.ipsf_policy *>malloc((values.count + 1) * sizeof(csrc.ipsf_policy))
    if values.items == NULL:
        raise MemoryError("SPD")
    memcpy(values.items, cnp.PyArray_DATA(array), values.count * sizeof(csrc.ipsf_policy))
    for i in range(values.count):
        values.items[i].flags = csrc.IPSF_POLICY_HOLD if values.items[i].flags else 0
    valid = csrc.ipsf_policies_valid(values.items, values.count)
    if valid < values.count:
        raise DataPlaneError(f"policy {valid}: {_fault(&values.items[valid])}")
    return values


def policy_array(policies):
    """A sequence of `ipsecfast.model.Policy` as an array of POLICY_DTYPE."""
    cdef PolicyArray values = PolicyArray(policies)
    cdef cnp.ndarray array = np.zeros(values.count, POLICY_DTYPE)
    memcpy(cnp.PyArray_DATA(array), values.items, values.count * sizeof(csrc.ipsf_policy))
    return array


# ---- SAs ----


cdef void _params_of(sa_row *row, csrc.ipsf_sa_params *params) noexcept nogil:
    """Points to the row's selectors."""
    memset(params, 0, sizeof(params[0]))
    params.spi, params.reqid, params.encryption = row.spi, row.reqid, row.encryption
    memcpy(params.key, row.key, sizeof(params.key))
    params.key_length, params.mode = row.key_length, row.mode
    params.udp_encap, params.esn = row.udp_encap, row.esn
    params.copy_df, params.copy_ecn, params.copy_dscp = row.copy_df, row.copy_ecn, row.copy_dscp
    params.tfc_padding, params.replay_window, params.path = row.tfc_padding, row.replay_window, row.path
    params.local_ts, params.n_local_ts = &row.local_ts, 1
    params.remote_ts, params.n_remote_ts = &row.remote_ts, 1
    params.soft_bytes, params.hard_bytes = row.soft_bytes, row.hard_bytes
    params.soft_packets, params.hard_packets = row.soft_packets, row.hard_packets
    params.initial_sequence = row.initial_sequence


cdef int _name_sa(csrc.ipsf_dataplane *dp, csrc.ipsf_command_kind kind, const sa_row *row) noexcept nogil:
    cdef csrc.ipsf_command command
    memset(&command, 0, sizeof(command))
    command.kind, command.reqid, command.spi = kind, row.reqid, row.spi
    return csrc.ipsf_dataplane_apply(dp, &command)


@cython.final
cdef class SaArray:
    def __cinit__(self, array):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"SAs are an array of dtype SA_DTYPE, not {type(array).__name__}")
        cdef cnp.ndarray rows = _vector(array, SA_DTYPE, "sa")
        self.count = len(rows)
        self._rows = malloc((self.count + 1) * sizeof(sa_row))
        if self._rows == NULL:
            raise MemoryError("SAs")
        memcpy(self._rows, cnp.PyArray_DATA(rows), self.count * sizeof(sa_row))

    def __dealloc__(self):
        if self._rows != NULL:
            explicit_bzero(self._rows, self.count * sizeof(sa_row))
            free(self._rows)

    cdef str text(self, size_t row):
        cdef sa_row *rows = <sa_row *>self._rows
        return f"SA {row} (SPI 0x{rows[row].spi:08x}, reqid {rows[row].reqid})"

    cdef int install(self, csrc.ipsf_dataplane *dp, bint inbound, bint activate, size_t *row) noexcept nogil:
        """All of them, or none and the row that was refused."""
        cdef sa_row *rows = <sa_row *>self._rows
        cdef csrc.ipsf_command_kind undo = csrc.IPSF_CMD_REMOVE_INBOUND if inbound else csrc.IPSF_CMD_REMOVE_OUTBOUND
        cdef csrc.ipsf_sa_params params
        cdef csrc.ipsf_command command
        cdef int code = csrc.IPSF_OK
        memset(&command, 0, sizeof(command))
        command.kind = csrc.IPSF_CMD_INSTALL_INBOUND if inbound else csrc.IPSF_CMD_INSTALL_OUTBOUND
        command.sa = &params
        row[0] = 0
        while row[0] < self.count and code == csrc.IPSF_OK:
            _params_of(&rows[row[0]], &params)
            code = csrc.ipsf_dataplane_apply(dp, &command)
            row[0] += code == csrc.IPSF_OK
        explicit_bzero(&params, sizeof(params))
        cdef size_t i
        for i in range(row[0]):
            if code != csrc.IPSF_OK:
                _name_sa(dp, undo, &rows[i])
            elif activate and not inbound:
                _name_sa(dp, csrc.IPSF_CMD_ACTIVATE_OUTBOUND, &rows[i])
        return code


def sa_array(sas):
    """A sequence of `ipsecfast.model.SaParams`, each with one local and one remote selector, as an array of SA_DTYPE.

    Raises DataPlaneError for one that has more.
    """
    cdef cnp.ndarray array = np.zeros(len(sas), SA_DTYPE)
    cdef sa_row *row = <sa_row *>cnp.PyArray_DATA(array)
    cdef SaParamsStruct values
    for i, params in enumerate(sas):
        values = SaParamsStruct(params)
        if values.c.n_local_ts != 1 or values.c.n_remote_ts != 1:
            raise DataPlaneError(f"SA {i}: a row has one local and one remote selector")
        row.spi, row.reqid, row.encryption = values.c.spi, values.c.reqid, values.c.encryption
        memcpy(row.key, values.c.key, sizeof(row.key))
        row.key_length, row.mode = values.c.key_length, values.c.mode
        row.udp_encap, row.esn = values.c.udp_encap, values.c.esn
        row.copy_df, row.copy_ecn, row.copy_dscp = values.c.copy_df, values.c.copy_ecn, values.c.copy_dscp
        row.tfc_padding, row.replay_window, row.path = values.c.tfc_padding, values.c.replay_window, values.c.path
        row.local_ts, row.remote_ts = values.c.local_ts[0], values.c.remote_ts[0]
        row.soft_bytes, row.hard_bytes = values.c.soft_bytes, values.c.hard_bytes
        row.soft_packets, row.hard_packets = values.c.soft_packets, values.c.hard_packets
        row.initial_sequence = values.c.initial_sequence
        row += 1
    return array


cdef object counts_of(csrc.ipsf_dataplane *dp):
    """An array of SA_COUNT_DTYPE of all SAs. Nobody else gives commands meanwhile."""
    cdef size_t count = csrc.ipsf_dataplane_sa_counts(dp, NULL, 0)
    cdef cnp.ndarray array = np.zeros(count, SA_COUNT_DTYPE)
    cdef csrc.ipsf_sa_count *rows = <csrc.ipsf_sa_count *>cnp.PyArray_DATA(array)
    with nogil:
        csrc.ipsf_dataplane_sa_counts(dp, rows, count)
    return array
