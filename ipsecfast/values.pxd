# What values.pyx offers the other extension modules: conversions between `ipsecfast.model` and the structs of ipsecfast.h.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from ipsecfast cimport csrc

cdef int check(int code, object what) except -1
cdef const char *engine_name(bytes name) except NULL
cdef uint64_t unsigned_value(object value, object bits, object name) except? 0
cdef int fill_address(csrc.ipsf_addr *out, object address) except -1
cdef int fill_hardware(uint8_t *out, bytes address) except -1
cdef int fill_path(csrc.ipsf_path *out, object path) except -1
cdef object path_value(const csrc.ipsf_path *path)
cdef object selector_value(const csrc.ipsf_selector *selector)
cdef object event_value(const csrc.ipsf_event *event, const uint8_t *data)
cdef dict drops_value(const uint64_t *drops)


cdef class SaParamsStruct:
    """One `SaParams` as C has it, selectors included. The key is wiped when the object goes."""

    cdef csrc.ipsf_sa_params c
    cdef csrc.ipsf_selector *_selectors
    cdef str text
    cdef int _fill_numbers(self, object params) except -1
    cdef int _fill_key(self, bytes key) except -1
    cdef int _fill_selectors(self, object local, object remote) except -1


cdef class PolicyArray:
    """An ordered SPD as C has it."""

    cdef csrc.ipsf_policy *items
    cdef size_t count


cdef class HopArray:
    """A table of next hops as C has it."""

    cdef csrc.ipsf_hop *items
    cdef size_t count
