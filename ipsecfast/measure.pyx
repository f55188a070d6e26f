# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""What each stage of the data plane costs a packet, measured in C over batches in memory."""

from typing import NamedTuple

from ipsecfast.errors import DataPlaneError

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ipsecfast cimport csrc
from ipsecfast.values cimport check, engine_name, unsigned_value

cimport cython

STAGES = tuple([csrc.ipsf_stage_text(i).decode() for i in range(csrc.IPSF_STAGE_COUNT)])
STAGE_HELP = {csrc.ipsf_stage_text(i).decode(): csrc.ipsf_stage_help(i).decode() for i in range(csrc.IPSF_STAGE_COUNT)}


class StageCost(NamedTuple):
    """Per packet: nanoseconds, and cycles of the time stamp counter (None where the machine has none that we know)."""

    ns: float
    cycles: float | None


@cython.final
cdef class StageBench:
    """The stages of both journeys over prepared packets, on one core, without ports; for benchmarks.

        bench = StageBench(engine="auto", sizes=[1400], policies=1000, flows=64, sas=1)
        costs = bench.measure(100)                     # {"raw-seal": StageCost(ns=78.1, cycles=203.0), ...}

    Packets are UDP over IPv4 of the given `sizes` (bytes, 28 to 65,000) in turn, of `flows` flows in turn (1 to 65,536); flow
    i belongs to SA i % `sas`. The SPD has `policies` policies, each a pair of prefixes. A step is `batch` packets (1 to 64).
    `key` is an AES key without salt, 16, 24 or 32 bytes. STAGES names what is measured, STAGE_HELP says what each includes;
    "outbound" and "inbound" are everything that the gateway does between its ports, "raw-seal" and "raw-open" the engine alone
    on as many bytes.

    Raises DataPlaneError for an unknown engine, a key of the wrong length or numbers out of their ranges. One object is used by
    one thread at a time; calls wait for each other. The GIL is free while C works.
    """

    cdef csrc.ipsf_stage_bench *_bench
    cdef cython.pymutex _lock
    cdef readonly str engine

    def __cinit__(self, *, str engine not None="auto", sizes=(1400,), bytes key not None=bytes(range(16)), policies=1000,
                  flows=64, sas=1, batch=64, replay_window=2048, bint esn=False):
        cdef csrc.ipsf_stage_setup setup
        cdef uint32_t *array
        memset(&setup, 0, sizeof(setup))
        setup.engine = engine_name(engine.encode())
        self.engine = setup.engine.decode()
        setup.policies = unsigned_value(policies, 32, "policies")
        setup.flows = unsigned_value(flows, 32, "flows")
        setup.sas = unsigned_value(sas, 32, "sas")
        setup.batch = unsigned_value(batch, 32, "batch")
        setup.replay_window = unsigned_value(replay_window, 32, "replay_window")
        setup.esn = esn
        if len(key) not in (16, 24, 32):
            raise DataPlaneError(f"key has {len(key)} bytes; right is 16, 24 or 32")
        setup.key_length = len(key)
        for i, value in enumerate(key):
            setup.key[i] = value
        lengths = [unsigned_value(size, 32, "size") for size in sizes]
        array = <uint32_t *>calloc(len(lengths) + 1, sizeof(uint32_t))
        if array == NULL:
            raise MemoryError("sizes")
        for i, value in enumerate(lengths):
            array[i] = value
        setup.sizes = array
        setup.n_sizes = len(lengths)
        try:
            check(csrc.ipsf_stage_bench_new(&setup, &self._bench), f"a bench of {engine}, sizes {lengths}, {policies} policies, "
                  f"{flows} flows, {sas} SAs, batches of {batch}")
        finally:
            free(array)

    def __dealloc__(self):
        csrc.ipsf_stage_bench_free(self._bench)

    def measure(self, batches=100):
        """One round: every stage over so many batches, one stage after the other: {stage: StageCost}.

        Choose `batches` so that a stage takes less than a scheduler's slice, and take medians over rounds. Raises
        DataPlaneError where packets were dropped: such figures would mean nothing.
        """
        cdef csrc.ipsf_stage_times times
        cdef size_t n = unsigned_value(batches, 32, "batches")
        if n == 0:
            raise DataPlaneError("batches is 0; right is at least 1")
        with nogil:
            with self._lock:
                csrc.ipsf_stage_bench_run(self._bench, n, &times)
        if times.dropped:
            raise DataPlaneError(f"{times.dropped} packets were dropped, the figures would mean nothing")
        return {
            name: StageCost(times.nanoseconds[i], times.cycles[i] or None) for i, name in enumerate(STAGES)
        }
