# What ports.pyx offers the data plane.
from ipsecfast cimport csrc


cdef class Port:
    """Where packets come from and go to. `close()` takes effect when no data plane uses the port any more."""

    cdef csrc.ipsf_port *_port
    cdef int _users
    cdef bint _closed
    cdef csrc.ipsf_port *_enter(self) except NULL
    cdef void _leave(self) noexcept
    cdef void _free_when_unused(self) noexcept
