# csrc/include/ipsecfast.h as Cython sees it, in the same order, nothing else. What each thing means stands there.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "ipsecfast.h" nogil:
    enum ipsf_error:
        IPSF_OK
        IPSF_ENOMEM
        IPSF_EINVAL
        IPSF_EEXIST
        IPSF_ENOENT
        IPSF_ECRYPTO
        IPSF_ESYS
        IPSF_ENOSPC
        IPSF_ELATE
    const char *ipsf_error_text(int error)

    enum ipsf_drop:
        IPSF_DROP_COUNT
    const char *ipsf_drop_text(unsigned reason)
    const char *ipsf_drop_help(unsigned reason)

    enum ipsf_event_kind:
        IPSF_EVENT_ACQUIRE
        IPSF_EVENT_FIRST_INBOUND
        IPSF_EVENT_PEER_MOVED
        IPSF_EVENT_SOFT_LIFETIME
        IPSF_EVENT_HARD_LIFETIME
        IPSF_EVENT_UNKNOWN_SPI
        IPSF_EVENT_IKE_DATAGRAM
        IPSF_EVENT_COUNT
    const char *ipsf_event_text(unsigned kind)

    enum ipsf_mode:
        IPSF_MODE_TUNNEL
        IPSF_MODE_TRANSPORT
    enum ipsf_action:
        IPSF_DISCARD
        IPSF_BYPASS
        IPSF_PROTECT
    enum ipsf_copy:
        IPSF_COPY_NO
        IPSF_COPY_OUT
        IPSF_COPY_IN
        IPSF_COPY_YES

    struct ipsf_addr:
        uint8_t bytes[16]
        uint8_t version

    struct ipsf_path:
        ipsf_addr local
        ipsf_addr remote
        uint16_t local_port
        uint16_t remote_port

    struct ipsf_selector:
        ipsf_addr first
        ipsf_addr last
        uint16_t port_first
        uint16_t port_last
        uint8_t protocol

    enum:
        IPSF_POLICY_HOLD

    struct ipsf_policy:
        ipsf_selector source
        ipsf_selector destination
        uint32_t reqid
        uint8_t action
        uint8_t flags

    enum:
        IPSF_KEY_MAX

    struct ipsf_sa_params:
        uint32_t spi
        uint32_t reqid
        uint16_t encryption
        uint8_t key[IPSF_KEY_MAX]
        uint8_t key_length
        uint8_t mode
        uint8_t udp_encap
        uint8_t esn
        uint8_t copy_df
        uint8_t copy_ecn
        uint8_t copy_dscp
        uint16_t tfc_padding
        uint32_t replay_window
        ipsf_path path
        const ipsf_selector *local_ts
        const ipsf_selector *remote_ts
        uint32_t n_local_ts
        uint32_t n_remote_ts
        uint64_t soft_bytes
        uint64_t hard_bytes
        uint64_t soft_packets
        uint64_t hard_packets
        uint64_t initial_sequence
        uint8_t resource
        uint8_t resources
        uint8_t by_dscp
        uint8_t dscp[64]

    struct ipsf_sa_out
    struct ipsf_sa_in

    struct ipsf_packets:
        uint8_t *data
        size_t size
        uint64_t *offsets
        uint32_t *lengths
        size_t count

    size_t ipsf_engine_count()
    const char *ipsf_engine_name(size_t index)
    const char *ipsf_engine_version(const char *name)
    const char *ipsf_engine_choose(const char *name)

    int ipsf_sa_out_new(const ipsf_sa_params *params, const char *engine, ipsf_sa_out **sa)
    void ipsf_sa_out_free(ipsf_sa_out *sa)
    uint64_t ipsf_sa_out_sequence(const ipsf_sa_out *sa)
    int ipsf_sa_in_new(const ipsf_sa_params *params, const char *engine, ipsf_sa_in **sa)
    void ipsf_sa_in_free(ipsf_sa_in *sa)
    int ipsf_esp_overhead(uint16_t encryption, uint8_t mode, uint8_t udp_encap, uint8_t outer_version)

    enum:
        IPSF_ESP_ROOM
        IPSF_ESP_HEADROOM
    int ipsf_seal(ipsf_sa_out *sa, const ipsf_packets *packets, ipsf_packets *out, uint8_t *reasons)
    int ipsf_open(ipsf_sa_in *sa, const ipsf_packets *packets, ipsf_packets *out, uint8_t *reasons)
    int ipsf_raw_seal(const char *engine, const uint8_t *key, size_t key_length, uint8_t *data, size_t length,
                      size_t stride, size_t n, size_t rounds)
    int ipsf_raw_open(const char *engine, const uint8_t *key, size_t key_length, uint8_t *data, size_t length,
                      size_t stride, size_t n, size_t rounds)

    enum ipsf_stage:
        IPSF_STAGE_COUNT
    const char *ipsf_stage_text(unsigned stage)
    const char *ipsf_stage_help(unsigned stage)

    struct ipsf_stage_setup:
        const char *engine
        uint8_t key[32]
        uint8_t key_length
        uint8_t esn
        const uint32_t *sizes
        size_t n_sizes
        uint32_t policies
        uint32_t flows
        uint32_t sas
        uint32_t batch
        uint32_t replay_window

    struct ipsf_stage_times:
        double nanoseconds[IPSF_STAGE_COUNT]
        double cycles[IPSF_STAGE_COUNT]
        uint64_t dropped

    struct ipsf_stage_bench
    int ipsf_stage_bench_new(const ipsf_stage_setup *setup, ipsf_stage_bench **bench)
    void ipsf_stage_bench_run(ipsf_stage_bench *bench, size_t batches, ipsf_stage_times *times)
    void ipsf_stage_bench_free(ipsf_stage_bench *bench)

    struct ipsf_replay
    int ipsf_replay_new(uint32_t size, int esn, ipsf_replay **replay)
    void ipsf_replay_free(ipsf_replay *replay)
    uint64_t ipsf_replay_reconstruct(const ipsf_replay *replay, uint32_t low)
    int ipsf_replay_check(const ipsf_replay *replay, uint64_t sequence)
    int ipsf_replay_update(ipsf_replay *replay, uint64_t sequence)
    uint64_t ipsf_replay_top(const ipsf_replay *replay)

    struct ipsf_spd
    size_t ipsf_policies_valid(const ipsf_policy *policies, size_t n)
    int ipsf_spd_compile(const ipsf_policy *policies, size_t n, ipsf_spd **spd)
    void ipsf_spd_free(ipsf_spd *spd)
    size_t ipsf_spd_count(const ipsf_spd *spd)
    size_t ipsf_spd_memory(const ipsf_spd *spd)
    void ipsf_spd_lookup_array(const ipsf_spd *spd, uint8_t version, const uint8_t *sources, const uint8_t *destinations,
                               const uint8_t *protocols, const uint16_t *source_ports,
                               const uint16_t *destination_ports, size_t n, int32_t *out)

    struct ipsf_port
    int ipsf_port_tun_new(const char *name, ipsf_port **port)
    int ipsf_port_tun_group(const char *name, size_t n, ipsf_port **ports)
    int ipsf_port_tun_steered(const ipsf_port *port)
    int ipsf_port_udp_new(uint8_t version, uint16_t port_number, uint32_t mark, ipsf_port **port)
    int ipsf_port_raw_new(uint8_t version, uint32_t mark, ipsf_port **port)
    int ipsf_port_udp_group(uint8_t version, uint16_t port_number, uint32_t mark, size_t n, ipsf_port **ports)
    int ipsf_port_raw_group(uint8_t version, uint32_t mark, size_t n, ipsf_port **ports)
    enum ipsf_rank:
        IPSF_RANK_UNKNOWN
    struct ipsf_gate:
        pass
    int ipsf_gate_new(ipsf_gate **gate)
    void ipsf_gate_free(ipsf_gate *gate)
    int ipsf_gate_rank(ipsf_gate *gate, const uint8_t *spi, ipsf_rank rank)
    int ipsf_gate_guard(ipsf_gate *gate, int socket, uint32_t workers)
    struct ipsf_packet_options:
        const char *interface
        uint8_t outer
        uint8_t bypass
        uint16_t udp_port
    int ipsf_port_packet_group(const ipsf_packet_options *options, size_t n, ipsf_port **ports)
    struct ipsf_xdp_options:
        const char *interface
        uint8_t outer
        uint8_t ring
        ipsf_port **beside
    int ipsf_port_xdp_group(const ipsf_xdp_options *options, size_t n, ipsf_port **ports)
    const char *ipsf_port_xdp_mode(const ipsf_port *port)
    int ipsf_port_xdp_shares(const ipsf_port *port)
    int ipsf_port_memory_pair(size_t capacity, ipsf_port **a, ipsf_port **b)
    int ipsf_port_memory_put(ipsf_port *port, const uint8_t *data, size_t length, const ipsf_path *path, uint8_t tos)
    int ipsf_port_memory_get(ipsf_port *port, uint8_t *data, size_t size, ipsf_path *path, uint8_t *tos)
    struct ipsf_generator_counts:
        uint64_t granted
        uint64_t delivered
        uint64_t sent
        uint64_t sent_bytes
    int ipsf_port_generator_new(const ipsf_packets *packets, const ipsf_path *path, ipsf_port **port)
    int ipsf_port_generator_grant(ipsf_port *port, uint64_t n)
    void ipsf_port_generator_counts(const ipsf_port *port, ipsf_generator_counts *counts)
    int ipsf_port_generator_drive(ipsf_port *port)
    const char *ipsf_port_name(const ipsf_port *port)
    int ipsf_port_fd(const ipsf_port *port)
    void ipsf_port_free(ipsf_port *port)

    struct ipsf_hop:
        ipsf_addr network
        uint8_t prefix_length
        uint8_t destination[6]
        uint8_t source[6]
        uint32_t mtu

    int ipsf_port_set_address(ipsf_port *port, const uint8_t *address)
    int ipsf_port_take(ipsf_port *port, const ipsf_addr *network, uint8_t prefix_length, uint32_t longest)
    int ipsf_port_leave(ipsf_port *port, const ipsf_addr *network, uint8_t prefix_length)

    struct ipsf_dataplane
    struct ipsf_worker

    enum:
        IPSF_WORKER_OUTBOUND
        IPSF_WORKER_INBOUND
        IPSF_WORKER_BUSY

    struct ipsf_counters:
        uint64_t rx_packets[2]
        uint64_t rx_bytes[2]
        uint64_t tx_packets[2]
        uint64_t tx_bytes[2]
        uint64_t consumed
        uint64_t held
        uint64_t handed_over
        uint64_t taken_over
        uint64_t cpu_ns
        uint64_t drops[IPSF_DROP_COUNT]

    struct ipsf_sa_status:
        uint32_t spi
        uint32_t reqid
        uint8_t inbound
        uint8_t active
        uint64_t packets
        uint64_t bytes
        uint64_t sequence
        uint64_t drops[IPSF_DROP_COUNT]

    int ipsf_dataplane_new(const char *engine, ipsf_dataplane **dp)
    void ipsf_dataplane_free(ipsf_dataplane *dp)
    const char *ipsf_dataplane_engine(const ipsf_dataplane *dp)
    int ipsf_dataplane_event_fd(const ipsf_dataplane *dp)
    int ipsf_dataplane_add_worker(ipsf_dataplane *dp, const char *name, ipsf_port **inner, size_t n_inner,
                                  ipsf_port **outer, size_t n_outer, unsigned directions, ipsf_worker **worker)
    int ipsf_worker_run(ipsf_worker *worker)
    int ipsf_worker_step(ipsf_worker *worker)
    void ipsf_worker_stop(ipsf_worker *worker)
    const char *ipsf_worker_name(const ipsf_worker *worker)
    void ipsf_worker_counters(const ipsf_worker *worker, ipsf_counters *counters)

    enum ipsf_command_kind:
        IPSF_CMD_INSTALL_INBOUND
        IPSF_CMD_INSTALL_OUTBOUND
        IPSF_CMD_ACTIVATE_OUTBOUND
        IPSF_CMD_REMOVE_INBOUND
        IPSF_CMD_REMOVE_OUTBOUND
        IPSF_CMD_MOVE_PEER
        IPSF_CMD_RELEASE_HELD
        IPSF_CMD_PUBLISH_SPD
        IPSF_CMD_REPLACE_POLICIES
        IPSF_CMD_PUBLISH_HOPS

    struct ipsf_command:
        ipsf_command_kind kind
        uint32_t reqid
        uint32_t spi
        uint32_t inbound_spi
        const ipsf_sa_params *sa
        const ipsf_path *path
        const ipsf_policy *policies
        size_t n_policies
        size_t index
        size_t n_removed
        ipsf_port *port
        const ipsf_hop *hops
        size_t n_hops
    int ipsf_dataplane_apply(ipsf_dataplane *dp, const ipsf_command *command)

    enum:
        IPSF_IKE_MAX

    struct ipsf_event:
        uint32_t kind
        uint32_t spi
        uint32_t reqid
        uint8_t inbound
        uint8_t resource
        ipsf_path path
        ipsf_selector source
        ipsf_selector destination
        uint32_t length
    int ipsf_dataplane_next_event(ipsf_dataplane *dp, ipsf_event *event, uint8_t *data, size_t size)
    struct ipsf_sa_count:
        uint32_t spi
        uint32_t reqid
        uint8_t inbound
        uint8_t active
        uint64_t packets
        uint64_t bytes
        uint64_t sequence
        uint64_t drops

    size_t ipsf_dataplane_sa_counts(const ipsf_dataplane *dp, ipsf_sa_count *counts, size_t n)
    size_t ipsf_dataplane_policy_count(const ipsf_dataplane *dp)
    size_t ipsf_dataplane_policy_memory(const ipsf_dataplane *dp)
    size_t ipsf_dataplane_sa_status(const ipsf_dataplane *dp, ipsf_sa_status *status, size_t n)
