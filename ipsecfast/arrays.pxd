from libc.stddef cimport size_t

from ipsecfast cimport csrc
from ipsecfast.values cimport PolicyArray

cdef PolicyArray policies_of(object policies)


cdef class SaArray:
    """SAs by the hundred thousand, as `SA_DTYPE` has them. Keys are wiped when the object goes."""

    cdef void *_rows
    cdef size_t count
    cdef str text(self, size_t row)
    cdef int install(self, csrc.ipsf_dataplane *dp, bint inbound, bint activate, size_t *row) noexcept nogil


cdef object counts_of(csrc.ipsf_dataplane *dp)
