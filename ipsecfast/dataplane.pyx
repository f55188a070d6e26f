# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The data plane of a gateway: workers and the messages that steer them; and, re-exported, ports and the library over numpy.

    inner, outer = TunPort("ipsec0"), UdpPort(4)
    plane = DataPlane()
    worker = plane.add_worker("w0", inner, [outer])
    threading.Thread(target=worker.run).start()          # without the GIL until plane.close()
    plane.install_inbound(params); plane.publish_spd(policies); ...
    plane.events()                                       # when plane.event_fd is readable

Control goes one way (commands), events come back the other; C never calls Python. What the control plane asks for and can't
have raises DataPlaneError; a bad packet is counted. All objects may be used from any thread; `close()` may be called twice,
everything else on a closed object raises DataPlaneError. What C still uses lives on until its last user is closed.
"""

from threading import Condition

from ipsecfast.errors import DataPlaneError
from ipsecfast.library import InboundSa, OutboundSa, PacketBatch, ReplayWindow, Spd, raw_open, raw_seal
from ipsecfast.ports import GeneratorPort, IkeGate, MemoryPort, PacketPort, Port, RawEspPort, RingPort, TunPort, UdpPort, XdpPort
from ipsecfast.values import DROP_HELP, DROP_REASONS, ENGINES, choose_engine, esp_overhead

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from ipsecfast cimport csrc
from ipsecfast.arrays cimport SaArray, counts_of, policies_of
from ipsecfast.ports cimport Port as AnyPort
from ipsecfast.values cimport (
    HopArray,
    PolicyArray,
    SaParamsStruct,
    check,
    drops_value,
    engine_name,
    event_value,
    fill_path,
    path_value,
    unsigned_value,
)


# ---- workers ----


@cython.final
@cython.no_gc
cdef class Worker:
    """One thread's work, made by `DataPlane.add_worker`. Its counters are in `DataPlane.worker_stats`."""

    cdef DataPlane _plane
    cdef csrc.ipsf_worker *_worker
    cdef bint _busy
    cdef readonly str name

    def __init__(self):
        raise TypeError("a worker is made by DataPlane.add_worker")

    cdef int _begin(self) except -1:
        self._plane._require_open()
        if self._busy:
            raise DataPlaneError(f"worker {self.name} runs already")
        self._busy = True
        self._plane._running += 1
        return 0

    cdef int _end(self) except -1:
        self._busy = False
        with self._plane._idle:
            self._plane._running -= 1
            self._plane._idle.notify_all()
        return 0

    def run(self):
        """Moves packets until `stop` or `DataPlane.close`: the target of a thread. Holds the GIL at no time in between.

        Raises DataPlaneError when the system refuses to wait on the ports, or when the worker runs already.
        """
        cdef int code
        self._begin()
        try:
            with nogil:
                code = csrc.ipsf_worker_run(self._worker)
            check(code, f"worker {self.name}")
        finally:
            self._end()

    def step(self):
        """One pass over the ports without waiting; gives back how many packets were handled. For tests."""
        cdef int code
        self._begin()
        try:
            with nogil:
                code = csrc.ipsf_worker_step(self._worker)
            return check(code, f"worker {self.name}")
        finally:
            self._end()

    def stop(self):
        """Lets `run` return soon. From any thread; after `close` there is nothing to stop."""
        if self._plane._dp != NULL:
            csrc.ipsf_worker_stop(self._worker)


# ---- the data plane ----


@cython.final
@cython.no_gc
cdef class DataPlane:
    """SAs, SPD and workers of one gateway. `engine` is one of ENGINES or "auto".

    Raises DataPlaneError for an unknown engine, or with the system's reason.
    """

    cdef csrc.ipsf_dataplane *_dp
    cdef csrc.ipsf_worker **_workers
    cdef size_t _n_workers
    cdef int _running      # workers inside of run() or step()
    cdef bint _closing
    cdef object _idle      # Condition: _running fell
    cdef list _ports
    cdef cython.pymutex _lock

    def __cinit__(self, *, str engine not None="auto"):
        self._idle, self._ports = Condition(), []
        check(csrc.ipsf_dataplane_new(engine_name(engine.encode()), &self._dp), "data plane")

    def __dealloc__(self):
        self._free()
        self._leave_ports()

    cdef void _leave_ports(self) noexcept:
        cdef AnyPort port
        while self._ports:
            port = self._ports.pop()
            port._leave()

    cdef int _require_open(self) except -1:
        if self._dp == NULL or self._closing:
            raise DataPlaneError("the data plane is closed")
        return 0

    cdef void _free(self) noexcept nogil:
        cdef csrc.ipsf_dataplane *dp = self._dp
        self._dp = NULL
        csrc.ipsf_dataplane_free(dp)
        free(self._workers)
        self._workers, self._n_workers = NULL, 0

    def close(self):
        """Stops the workers, waits for their threads to leave `run`, frees everything; ports go on unless closed themselves."""
        cdef size_t i
        self._closing = True
        for i in range(self._n_workers):
            csrc.ipsf_worker_stop(self._workers[i])
        with self._idle:
            while self._running:
                self._idle.wait()
        with nogil:
            with self._lock:
                self._free()
        self._leave_ports()

    @property
    def engine(self):
        """The name of the AEAD engine in use."""
        self._require_open()
        return csrc.ipsf_dataplane_engine(self._dp).decode()

    @property
    def event_fd(self):
        """A descriptor that is readable when `events` has something; the data plane's own, don't close it."""
        self._require_open()
        return csrc.ipsf_dataplane_event_fd(self._dp)

    def add_worker(self, str name not None, inner not None, outer, *, outbound=True, inbound=True, busy=False):
        """A worker between the inner port (or ports) `inner` and those of the sequence `outer`.

        All workers are added before the first SA is installed. `outbound` and `inbound` say which directions it carries; one
        that is `busy` never sleeps. A packet leaves by the first port that reaches it: outer ports of its kind are asked in
        their order, inner ones from the last to the first, which is the default. Each port is received from by one worker
        only, and sent to by one worker only. Raises DataPlaneError where that can't be.
        """
        cdef list inside = [inner] if isinstance(inner, Port) else list(inner)
        cdef list ports = [*inside, *outer]
        cdef size_t n = len(ports), n_inner = len(inside)
        cdef unsigned directions = ((csrc.IPSF_WORKER_OUTBOUND if outbound else 0)
                                    | (csrc.IPSF_WORKER_INBOUND if inbound else 0)
                                    | (csrc.IPSF_WORKER_BUSY if busy else 0))
        cdef csrc.ipsf_port **pointers = <csrc.ipsf_port **>calloc(n + 1, sizeof(csrc.ipsf_port *))
        cdef list entered = []
        if pointers == NULL:
            raise MemoryError(name)
        try:
            for i in range(n):
                pointers[i] = (<AnyPort?>ports[i])._enter()
                entered.append(ports[i])
            worker = self._new_worker(name, pointers, n_inner, n - n_inner, directions)
            self._ports.extend(entered)
            entered.clear()
            return worker
        finally:
            free(pointers)
            for port in entered:
                (<AnyPort>port)._leave()

    cdef Worker _new_worker(self, str name, csrc.ipsf_port **ports, size_t n_inner, size_t n_outer, unsigned directions):
        cdef Worker worker = Worker.__new__(Worker)
        cdef bytes encoded = name.encode()
        self._require_open()
        cdef csrc.ipsf_worker **grown = <csrc.ipsf_worker **>realloc(
            self._workers, (self._n_workers + 1) * sizeof(csrc.ipsf_worker *))
        if grown == NULL:
            raise MemoryError(name)
        self._workers = grown
        check(csrc.ipsf_dataplane_add_worker(self._dp, encoded, ports, n_inner, ports + n_inner, n_outer, directions,
                                             &worker._worker), f"worker {name}")
        grown[self._n_workers] = worker._worker
        self._n_workers += 1
        worker._plane, worker.name = self, name
        return worker

    # ---- commands ----

    cdef int _apply(self, csrc.ipsf_command *command, object what) except -1:
        cdef int code = 0
        self._require_open()
        with nogil:
            with self._lock:
                if self._dp != NULL:
                    code = csrc.ipsf_dataplane_apply(self._dp, command)
        return check(code, what)

    cdef int _install(self, csrc.ipsf_command_kind kind, object params, str what) except -1:
        cdef SaParamsStruct values = SaParamsStruct(params)
        cdef csrc.ipsf_command command
        memset(&command, 0, sizeof(command))
        command.kind, command.reqid, command.spi, command.sa = kind, values.c.reqid, values.c.spi, &values.c
        return self._apply(&command, f"{what} {values.text}")

    cdef int _name(self, csrc.ipsf_command_kind kind, object reqid, object spi, str what) except -1:
        """A command that names an SA and says no more."""
        cdef csrc.ipsf_command command
        memset(&command, 0, sizeof(command))
        command.kind = kind
        command.reqid, command.spi = unsigned_value(reqid, 32, "reqid"), unsigned_value(spi, 32, "spi")
        return self._apply(&command, f"{what} (reqid {reqid}, SPI 0x{spi:08x})")

    def install_inbound(self, params):
        """From now on packets with `params.spi` are opened with this SA. Raises DataPlaneError when the SPI is in use."""
        self._install(csrc.IPSF_CMD_INSTALL_INBOUND, params, "install inbound")

    def install_outbound(self, params):
        """Registers an outbound SA: it carries nothing until `activate_outbound` (RFC 7296 s2.8)."""
        self._install(csrc.IPSF_CMD_INSTALL_OUTBOUND, params, "install outbound")

    def activate_outbound(self, reqid, spi):
        """From now on packets of `reqid` leave by the registered SA `spi`; held ones leave first, in their order."""
        self._name(csrc.IPSF_CMD_ACTIVATE_OUTBOUND, reqid, spi, "activate outbound SA")

    def remove_inbound(self, spi):
        """Takes the SA out; it is freed when no worker can still be using it."""
        self._name(csrc.IPSF_CMD_REMOVE_INBOUND, 0, spi, "remove inbound SA")

    def remove_outbound(self, reqid, spi):
        """Takes the SA out; when it was the active one, packets of `reqid` have none."""
        self._name(csrc.IPSF_CMD_REMOVE_OUTBOUND, reqid, spi, "remove outbound SA")

    def move_peer(self, reqid, inbound_spi, outbound_spi, path):
        """The SA pair goes on over `path` (RFC 7296 s2.23)."""
        cdef csrc.ipsf_command command
        cdef csrc.ipsf_path c_path
        memset(&command, 0, sizeof(command))
        memset(&c_path, 0, sizeof(c_path))
        fill_path(&c_path, path)
        command.kind, command.path = csrc.IPSF_CMD_MOVE_PEER, &c_path
        command.reqid = unsigned_value(reqid, 32, "reqid")
        command.spi = unsigned_value(outbound_spi, 32, "outbound_spi")
        command.inbound_spi = unsigned_value(inbound_spi, 32, "inbound_spi")
        self._apply(&command, f"move SAs 0x{inbound_spi:08x}, 0x{outbound_spi:08x} of reqid {reqid} to {path}")

    def release_held(self, reqid):
        """Drops the packets that wait for an SA of `reqid`, counted as hold-released."""
        self._name(csrc.IPSF_CMD_RELEASE_HELD, reqid, 0, "release held packets")

    cdef int _change_policies(self, csrc.ipsf_command_kind kind, object index, object removed, object policies) except -1:
        cdef PolicyArray array = policies_of(policies)
        cdef csrc.ipsf_command command
        memset(&command, 0, sizeof(command))
        command.kind, command.policies, command.n_policies = kind, array.items, array.count
        command.index, command.n_removed = unsigned_value(index, 32, "index"), unsigned_value(removed, 32, "removed")
        return self._apply(&command, f"put {array.count} policies in the place of {removed} at {index}"
                           if kind == csrc.IPSF_CMD_REPLACE_POLICIES else f"publish an SPD of {array.count} policies")

    def publish_spd(self, policies):
        """Puts an ordered sequence of Policy, or an array of POLICY_DTYPE, in the place of the whole SPD, at once (RFC 4301
        s4.4.1)."""
        self._change_policies(csrc.IPSF_CMD_PUBLISH_SPD, 0, 0, policies)

    def replace_policies(self, index, removed, policies):
        """`removed` policies of the SPD, from `index` on, give way to others (as of `publish_spd`), at once: no packet meets
        half of it. Costs what changes, not what is there. Raises DataPlaneError, with the SPD as it was, out of its range."""
        self._change_policies(csrc.IPSF_CMD_REPLACE_POLICIES, index, removed, policies)

    @property
    def policy_count(self):
        """How many policies the SPD holds."""
        self._require_open()
        return csrc.ipsf_dataplane_policy_count(self._dp)

    @property
    def policy_bytes(self):
        """Memory of the SPD: rules, tables, order, and what is freed when no worker can still be using it."""
        self._require_open()
        return csrc.ipsf_dataplane_policy_memory(self._dp)

    def install_sas_array(self, sas, *, inbound, activate=False):
        """`install_inbound` or `install_outbound` of all SAs of an array of SA_DTYPE, outbound with `activate_outbound` if
        `activate`: all, or, with DataPlaneError that names the row, none."""
        cdef SaArray array = SaArray(sas)
        cdef bint arriving = inbound, switch = activate
        cdef size_t row = 0
        cdef int code = 0
        self._require_open()
        with nogil:
            with self._lock:
                if self._dp != NULL:
                    code = array.install(self._dp, arriving, switch, &row)
        if code != csrc.IPSF_OK:
            check(code, f"install {array.text(row)}")

    def publish_hops(self, AnyPort port not None, hops):
        """Puts a sequence of NextHop in the place of all that the port knew; of two for one network the later counts."""
        cdef HopArray array = HopArray(hops)
        cdef csrc.ipsf_command command
        memset(&command, 0, sizeof(command))
        command.kind, command.hops, command.n_hops = csrc.IPSF_CMD_PUBLISH_HOPS, array.items, array.count
        command.port = port._enter()
        try:
            self._apply(&command, f"publish {array.count} next hops")
        finally:
            port._leave()

    # ---- what comes back ----

    def events(self, limit=256):
        """Up to `limit` events, the oldest first, as the dataclasses of `ipsecfast.model`."""
        cdef csrc.ipsf_event event
        cdef uint8_t[csrc.IPSF_IKE_MAX] data
        cdef int code
        cdef list found = []
        self._require_open()
        while len(found) < limit:
            code = 0
            with nogil:
                with self._lock:
                    if self._dp != NULL:
                        code = csrc.ipsf_dataplane_next_event(self._dp, &event, data, sizeof(data))
            if check(code, "events") == 0:
                break
            found.append(event_value(&event, data))
        return found

    def worker_stats(self):
        """One dict a worker: name; outbound and inbound, each {rx_packets, rx_bytes, tx_packets, tx_bytes}; consumed (IKE
        messages and keepalives: neither sent nor dropped); held (packets that wait for their SA now); cpu (seconds its thread
        has used); drops {reason: n};
        handed_over, taken_over (packets of SAs that another worker owns, and by others to this one).

        rx is what came in of a direction, tx what was sent: over both directions rx + taken_over = tx + drops + consumed +
        held + handed_over.
        """
        cdef csrc.ipsf_counters counters
        cdef size_t i
        cdef list found = []
        self._require_open()
        for i in range(self._n_workers):
            with self._lock:
                if self._dp == NULL:
                    break
                name = csrc.ipsf_worker_name(self._workers[i]).decode()
                csrc.ipsf_worker_counters(self._workers[i], &counters)
            found.append({
                "name": name,
                "outbound": _direction_value(&counters, 0),
                "inbound": _direction_value(&counters, 1),
                "consumed": counters.consumed,
                "held": counters.held,
                "handed_over": counters.handed_over,
                "taken_over": counters.taken_over,
                "cpu": counters.cpu_ns / 1e9,
                "drops": drops_value(counters.drops),
            })
        return found

    def sa_stats(self):
        """One dict an SA: spi, reqid, inbound, active (bool), packets, bytes (of inner packets), sequence (last used, or the
        top of the window), drops {reason: n}."""
        cdef csrc.ipsf_sa_status *status = NULL
        cdef csrc.ipsf_sa_status *grown
        cdef size_t i, room = 0, count = 16
        self._require_open()
        try:
            while count > room:
                grown = <csrc.ipsf_sa_status *>realloc(status, count * sizeof(csrc.ipsf_sa_status))
                if grown == NULL:
                    raise MemoryError("SA statistics")
                status, room = grown, count
                with nogil:
                    with self._lock:
                        count = 0 if self._dp == NULL else csrc.ipsf_dataplane_sa_status(self._dp, status, room)
            return [_sa_value(&status[i]) for i in range(count)]
        finally:
            free(status)

    def sa_stats_array(self):
        """The same as an array of SA_COUNT_DTYPE (`ipsecfast.arrays`), `drops` for whatever reason: for many SAs."""
        self._require_open()
        with self._lock:
            self._require_open()
            return counts_of(self._dp)


cdef dict _direction_value(const csrc.ipsf_counters *counters, int direction):
    return {
        "rx_packets": counters.rx_packets[direction],
        "rx_bytes": counters.rx_bytes[direction],
        "tx_packets": counters.tx_packets[direction],
        "tx_bytes": counters.tx_bytes[direction],
    }


cdef dict _sa_value(const csrc.ipsf_sa_status *status):
    return {
        "spi": status.spi,
        "reqid": status.reqid,
        "inbound": status.inbound != 0,
        "active": status.active != 0,
        "packets": status.packets,
        "bytes": status.bytes,
        "sequence": status.sequence,
        "drops": drops_value(status.drops),
    }
