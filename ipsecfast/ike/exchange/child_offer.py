"""The part of IKE_AUTH and CREATE_CHILD_SA that both share: offering, answering and building one Child SA.

RFC 7296 s1.2, s1.3.1, s2.9 (selectors), s2.17 (keys), s2.23.1 (transport mode behind a NAT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig, ConnectionConfig
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.constants import (
    ESP_SPI_LENGTH,
    InvalidSyntax,
    NoAdditionalSas,
    NoProposalChosen,
    NotifyType,
    PayloadType,
    SequenceNumbersId,
    TemporaryFailure,
    TsMaxQueue,
    TsUnacceptable,
)
from ipsecfast.ike.crypto.keymat import derive_child_keys
from ipsecfast.ike.diagnosis import refused_child
from ipsecfast.ike.exchange.base import require
from ipsecfast.ike.extension.resources import (
    accepted_resource,
    allocate_spi,
    choose_resource,
    dscp_resources,
    fallback,
    proposals_beside,
    resource_notify,
    wanted_resources,
)
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.mismatch import Field, Mismatch
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload, SaPayload, TsPayload
from ipsecfast.ike.wire.proposal import accept_answer, proposal_text, select, without_ke
from ipsecfast.ike.wire.selectors import (
    SelectorPair,
    choose_child,
    narrow_pair,
    packet_first,
    resolve_pair,
    with_address,
    within,
)
from ipsecfast.model import Acquire, Mode, Proposal, SaParams, TransformType

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

SPARE = 4  # times what is configured: rekeys, and selectors that a peer wants one by one
FIRST_ESP_SPI = 256  # RFC 4303 s2.1: 1 to 255 are reserved, 0 means none


@dataclass(frozen=True, slots=True)
class ChildTerms:
    """What was agreed: all that a Child SA is made of, but keys. Selectors from our point of view."""

    config: ChildConfig
    proposal: Proposal
    selectors: SelectorPair
    spi_in: int
    spi_out: int
    reqid: int
    resource: int | None = None  # as of ChildSa
    tfc_padding: int = 0  # octets that our packets are padded to


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What we propose. `ke` False: without key exchange, as the Child SA of IKE_AUTH (s1.2). `resource` as of ChildSa;
    what `succeeds` another one keeps it whatever the peer says (RFC 9611 s3)."""

    config: ChildConfig
    proposals: tuple[Proposal, ...]
    selectors: SelectorPair
    spi: int
    reqid: int
    ke: bool
    resource: int | None = None
    succeeds: bool = False

    @classmethod
    def make(
        cls,
        sa: IkeSa,
        config: ChildConfig,
        *,
        ke: bool,
        packet: Acquire | None = None,
        single: bool = False,
        old: ChildSa | None = None,
        beside: ChildSa | None = None,
        resource: int = 0,
    ) -> ChildOffer | None:
        """For a configured child, or for the successor of `old` (its selectors: s2.9.2). None: no SPI is free.
        `single`: only the selectors of `packet`, after SINGLE_PAIR_REQUIRED (s2.9). `beside` is the Child SA for all
        workers that the one of `resource` joins."""
        like = old or beside
        place = old.resource if old else resource if wanted_resources(config) else None
        spi = allocate_spi(sa, place, old)
        if spi is None:
            return None
        selectors = like.selectors if like else resolve_pair(config, sa.path.local, sa.path.remote)
        if packet is not None:
            local = packet_first(packet.source, selectors.local)
            selectors = SelectorPair(local, packet_first(packet.destination, selectors.remote))
        if single:
            selectors = SelectorPair(selectors.local[:1], selectors.remote[:1])
        wire_spi = spi.to_bytes(ESP_SPI_LENGTH, "big")
        proposals = tuple(
            replace(p if ke else without_ke(p), spi=wire_spi, number=n)
            for n, p in enumerate(proposals_beside(config.esp_proposals, beside), 1)
        )
        reqid = like.reqid if like else sa.connection.reqid(config.name, sa.remote_id)
        return cls(config, proposals, selectors, spi, reqid, ke, place, old is not None)

    def payloads(self, *between: Payload) -> tuple[Payload, ...]:
        """[N(USE_TRANSPORT_MODE)], [N(SA_RESOURCE_INFO)], SA, `between`, TSi, TSr."""
        return (
            *_mode_notifies(self.config.mode),
            *resource_notify(self.resource),
            SaPayload(self.proposals),
            *between,
            TsPayload(PayloadType.TSi, self.selectors.local),
            TsPayload(PayloadType.TSr, self.selectors.remote),
        )

    def accept(self, sa: IkeSa, message: Message) -> ChildTerms:
        """The responder's choice, checked against the offer (s2.7, s2.9, s1.3.1)."""
        answer = require(message, SaPayload).proposals
        proposal = accept_answer(answer, self.proposals, ignore_ke=not self.ke)
        transport = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
        if transport != (self.config.mode == Mode.TRANSPORT):
            text = f"we asked for {self.config.mode.value} mode, the peer chose the other one"
            other = Mode.TRANSPORT if transport else Mode.TUNNEL
            raise NoProposalChosen(text).about(Mismatch(Field.MODE, self.config.mode, other, self.config.mode))
        local = require(message, TsPayload, PayloadType.TSi).selectors
        remote = require(message, TsPayload, PayloadType.TSr).selectors
        selectors = SelectorPair(local, remote)
        if transport:
            selectors = as_seen_here(sa, selectors)
        if not within(selectors, self.selectors):
            raise TsUnacceptable(f"the peer answered with selectors {selectors} that are not in our {self.selectors}")
        resource = self.resource if self.succeeds else accepted_resource(self.resource, message)
        if resource and not self.succeeds and selectors != self.selectors:
            raise TsMaxQueue(f"the peer narrows a per-resource Child SA to {selectors}")
        spi_out = outbound_spi(sa, proposal, self.reqid)
        padding = tfc_padding(sa, self.config, refused=refuses_tfc(message))
        return ChildTerms(self.config, proposal, selectors, self.spi, spi_out, self.reqid, resource, padding)

    def refusal(self, code: int) -> Mismatch | None:
        """What the peer's error is about."""
        return refused_child(code, self.selectors, self.proposals, self.config.mode)

    def __str__(self) -> str:
        proposals = ", ".join(map(proposal_text, self.proposals))
        return f"{self.selectors} with {proposals} in {self.config.mode.value} mode"


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """What the peer asks for, selectors from our point of view; `as_sent` before any address was replaced (s2.23.1)."""

    proposals: tuple[Proposal, ...]
    mode: Mode
    selectors: SelectorPair
    as_sent: SelectorPair
    resource_info: bytes | None  # it may be one of several (RFC 9611): for which resource; b"": for all
    tfc_refused: bool = False

    @classmethod
    def parse(cls, sa: IkeSa, message: Message) -> ChildRequest:
        as_sent = SelectorPair(
            require(message, TsPayload, PayloadType.TSr).selectors,
            require(message, TsPayload, PayloadType.TSi).selectors,
        )
        transport = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
        selectors = as_seen_here(sa, as_sent) if transport else as_sent
        mode = Mode.TRANSPORT if transport else Mode.TUNNEL
        notify = message.notify(NotifyType.SA_RESOURCE_INFO)
        resource_info = notify.data if notify else None
        proposals = require(message, SaPayload).proposals
        return cls(proposals, mode, selectors, as_sent, resource_info, refuses_tfc(message))


def as_seen_here(sa: IkeSa, selectors: SelectorPair) -> SelectorPair:
    """s2.23.1, for transport mode: the other end may send the addresses that it sees; those that a NAT changes are
    replaced, in a request and in a response, before anything is done with them."""
    local, remote = selectors.local, selectors.remote
    return SelectorPair(
        with_address(local, sa.path.local) if sa.local_nat else local,
        with_address(remote, sa.path.remote) if sa.remote_nat else remote,
    )


def agree(sa: IkeSa, request: ChildRequest, *, ke: bool, old: ChildSa | None = None) -> ChildTerms:
    """The responder's choice: configured child and selectors (s2.9), then the algorithms (s2.7).

    Raises:
        TsUnacceptable, NoProposalChosen: the text says what both sides want.
        NoAdditionalSas: every inbound SPI is in use, or the peer has had enough of them.
        TsMaxQueue: there are enough Child SAs with these selectors (RFC 9611).
    """
    _limit(sa)
    config, selectors = _choose(sa, request, old)
    sa.connection.claims.check(sa.remote_id, selectors)
    reqid = old.reqid if old else sa.connection.reqid(config.name, sa.remote_id)
    info = request.resource_info
    beside = fallback(sa, reqid, selectors) if info is not None and not old else None
    resource = old.resource if old else choose_resource(sa, config, beside, info) if info is not None else None
    ours = proposals_beside(config.esp_proposals, beside)
    proposal = select(request.proposals, ours, ignore_ke=not ke)
    spi_out = outbound_spi(sa, proposal, reqid)
    spi_in = allocate_spi(sa, resource, old)
    if spi_in is None:
        raise NoAdditionalSas("all inbound SPIs are in use")
    padding = tfc_padding(sa, config, refused=request.tfc_refused)
    return ChildTerms(config, proposal, selectors, spi_in, spi_out, reqid, resource, padding)


def _limit(sa: IkeSa) -> None:
    """A peer makes as many Child SAs as it likes, but not without end: each takes memory, those too that it has rekeyed
    and does not delete."""
    configured = sum(1 + wanted_resources(child) for child in sa.connection.config.children)
    most = max(sa.context.settings.children_limit, SPARE * configured)
    if len(sa.children) >= most:
        raise NoAdditionalSas(f"this IKE SA has {len(sa.children)} Child SAs already")


def _choose(sa: IkeSa, request: ChildRequest, old: ChildSa | None) -> tuple[ChildConfig, SelectorPair]:
    children = (old.config,) if old else sa.connection.config.children
    chosen = choose_child(request.selectors, children, request.mode, sa.path.local, sa.path.remote)
    if chosen is not None:
        return chosen
    if old and request.mode == old.config.mode:  # `dynamic` selectors of an address that has moved since
        selectors = narrow_pair(request.selectors, old.selectors)
        if selectors is not None:
            return old.config, selectors
    configured = _configured_text(sa, children)
    text = f"the peer wants {request.selectors} in {request.mode.value} mode; configured: {configured}"
    raise TsUnacceptable(text).about(_child_mismatch(sa, request, children, configured))


def _child_mismatch(
    sa: IkeSa, request: ChildRequest, children: Sequence[ChildConfig], configured: str
) -> Mismatch | None:
    """The mode, where nothing else is in the way; else the selectors, where only one child can be meant."""
    pairs = [(c, resolve_pair(c, sa.path.local, sa.path.remote)) for c in children]
    fitting = [c for c, pair in pairs if narrow_pair(request.selectors, pair) is not None]
    if fitting:
        return Mismatch(Field.MODE, fitting[0].mode, request.mode, fitting[0].mode)
    wanted = pairs[0][1] if len(pairs) == 1 else None
    return Mismatch(Field.SELECTORS, configured, str(request.selectors), wanted)


def offers_child(sa: IkeSa, connection: ConnectionConfig, request: ChildRequest) -> bool:
    """Whether a connection has a child for the request at all."""
    here, there = sa.path.local, sa.path.remote
    return choose_child(request.selectors, connection.children, request.mode, here, there) is not None


def _configured_text(sa: IkeSa, children: Sequence[ChildConfig]) -> str:
    texts = [f"{c.name} {resolve_pair(c, sa.path.local, sa.path.remote)} in {c.mode.value} mode" for c in children]
    return "; ".join(texts) or "no child"


def answer_payloads(request: ChildRequest, terms: ChildTerms, *between: Payload) -> tuple[Payload, ...]:
    """[N(USE_TRANSPORT_MODE)], [N(SA_RESOURCE_INFO)], SA, `between`, TSi, TSr: the choice in the initiator's own
    addresses. One that replaces what comes (s2.23.1) gets the same from these; Libreswan, which does not, takes no
    others."""
    proposal = replace(terms.proposal, spi=terms.spi_in.to_bytes(ESP_SPI_LENGTH, "big"))
    remote, local = terms.selectors.remote, terms.selectors.local
    if request.selectors != request.as_sent:
        remote = with_address(remote, request.as_sent.remote[0].start)
        local = with_address(local, request.as_sent.local[0].start)
    return (
        *_mode_notifies(terms.config.mode),
        *resource_notify(terms.resource),
        SaPayload((proposal,)),
        *between,
        TsPayload(PayloadType.TSi, remote),
        TsPayload(PayloadType.TSr, local),
    )


def _mode_notifies(mode: Mode) -> tuple[Payload, ...]:
    """In transport mode nothing tells TFC padding from what is padded (RFC 4303 s2.7); in tunnel mode we cut it off.
    NON_FIRST_FRAGMENTS_ALSO (RFC 4301 s7.3), which both ends would have to say, we never do: later fragments go by
    OPAQUE ports or not at all."""
    if mode == Mode.TUNNEL:
        return ()
    return NotifyPayload(NotifyType.USE_TRANSPORT_MODE), NotifyPayload(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED)


def refuses_tfc(message: Message) -> bool:
    """s1.3.1: the peer won't take TFC padding on this Child SA."""
    return message.notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED) is not None


def tfc_padding(sa: IkeSa, config: ChildConfig, *, refused: bool) -> int:
    """Ours on a new Child SA: what is configured, if the peer takes it."""
    if config.tfc_padding and refused:
        sa.note(
            "no-tfc-padding", f"{config.name}: the peer takes no TFC padding, packets keep their length", warning=True
        )
        return 0
    return config.tfc_padding


def outbound_spi(sa: IkeSa, proposal: Proposal, reqid: int) -> int:
    """The peer's SPI of the chosen proposal: not reserved, and not that of a pair that it still has with us."""
    spi = int.from_bytes(proposal.spi, "big")
    if len(proposal.spi) != ESP_SPI_LENGTH or spi < FIRST_ESP_SPI:
        raise InvalidSyntax(f"ESP can't have the SPI {proposal.spi.hex() or 'of no octets'}")
    if any(child.spi_out == spi for child in sa.context.children.of_reqid(reqid)):
        raise TemporaryFailure(f"the peer's SPI {spi:08x} is still in use")
    return spi


def build_child(
    sa: IkeSa,
    terms: ChildTerms,
    nonces: tuple[bytes, bytes],
    shared: bytes = b"",
    additional: bytes = b"",
    *,
    initiator: bool,
    now: float,
) -> ChildSa:
    """Keys (s2.17) and parameters; the Child SA belongs to `sa` and is not installed yet. `nonces`: Ni, Nr; `shared`
    and `additional`: what its own key exchanges yielded."""
    encryption = next(t for t in terms.proposal.transforms if t.type == TransformType.ENCR)
    to_responder, to_initiator = derive_child_keys(sa.prf, sa.keys.sk_d, encryption, *nonces, shared, additional)
    key_out, key_in = (to_responder, to_initiator) if initiator else (to_initiator, to_responder)
    inbound = _params(sa, terms, encryption.id, terms.spi_in, key_in)
    outbound = replace(_params(sa, terms, encryption.id, terms.spi_out, key_out), tfc_padding=terms.tfc_padding)
    child = ChildSa(
        sa,
        terms.config,
        terms.proposal,
        terms.selectors,
        inbound,
        outbound,
        initiator=initiator,
        nonces=nonces,
        now=now,
        resource=terms.resource,
    )
    sa.children[terms.spi_in] = child
    return child


def _params(sa: IkeSa, terms: ChildTerms, encryption: int, spi: int, key: bytes) -> SaParams:
    config, lifetime = terms.config, terms.config.lifetime
    numbers = next((t.id for t in terms.proposal.transforms if t.type == TransformType.SN), None)
    return SaParams(
        spi=spi,
        reqid=terms.reqid,
        encryption=encryption,
        key=key,
        path=sa.esp_path,
        local_ts=terms.selectors.local,
        remote_ts=terms.selectors.remote,
        mode=config.mode,
        udp_encap=sa.udp_encap,
        esn=numbers == SequenceNumbersId.PARTIALLY_TRANSMITTED_64,
        replay_window=config.replay_window,
        soft_bytes=_jittered(sa, lifetime.rekey_bytes, lifetime.rand_bytes),
        hard_bytes=lifetime.life_bytes,
        soft_packets=_jittered(sa, lifetime.rekey_packets, lifetime.rand_packets),
        hard_packets=lifetime.life_packets,
        copy_df=config.copy_df,
        copy_ecn=config.copy_ecn,
        copy_dscp=config.copy_dscp,
        resource=terms.resource or 0,
        resources=wanted_resources(config) if terms.resource == 0 else 0,
        dscp=dscp_resources(config) if terms.resource == 0 else (),
    )


def _jittered(sa: IkeSa, limit: int, spread: int) -> int:
    """The limit less up to `spread`; 0 stays "no limit"."""
    return max(1, limit - int(spread * sa.context.fraction())) if limit else 0


def child_text(child: ChildSa) -> str:
    """One line for the log: selectors, algorithms, SPIs."""
    return f"{child.selectors}, {proposal_text(child.proposal)}, SPIs {child.spi_in:08x} in, {child.spi_out:08x} out"
