"""IKE_SA_INIT (RFC 7296 s1.2): algorithms, key exchange, nonces, NAT detection, cookies. Nothing here is authentic yet.

HDR(A,0), [N(COOKIE)], SAi1, KEi, Ni, N(NAT_DETECTION_*), [N(IKEV2_FRAGMENTATION_SUPPORTED)]  -->
                         <--  HDR(A,B), SAr1, KEr, Nr, N(NAT_DETECTION_*), [N(IKEV2_FRAGMENTATION_SUPPORTED)]

N(INTERMEDIATE_EXCHANGE_SUPPORTED) in both: additional key exchanges may be chosen, and follow (`ike_intermediate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ipsecfast.configured import AuthKind, ChildConfig, Fragmentation
from ipsecfast.ike.auth import nat_detection_hash
from ipsecfast.ike.constants import (
    ML_KEM,
    AuthenticationFailed,
    ExchangeType,
    InvalidKePayload,
    InvalidSyntax,
    NoProposalChosen,
    NotifyError,
    NotifyType,
)
from ipsecfast.ike.credential.wishes import announcements, requests, take_wishes
from ipsecfast.ike.crypto.keymat import derive_ike_keys
from ipsecfast.ike.crypto.primitives import KeyExchange
from ipsecfast.ike.crypto.signature import SUPPORTED_HASHES
from ipsecfast.ike.crypto.suite import Suite
from ipsecfast.ike.diagnosis import refused_proposals
from ipsecfast.ike.dialects import vendor_of
from ipsecfast.ike.exchange import key_exchange
from ipsecfast.ike.exchange.base import Exchange, PeerError, require
from ipsecfast.ike.exchange.ike_auth import IkeAuth
from ipsecfast.ike.exchange.ike_intermediate import first_after_init
from ipsecfast.ike.extension import childless, ppk, puzzles, redirect
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import ZERO_SPI, Message
from ipsecfast.ike.wire.mismatch import Field, Mismatch
from ipsecfast.ike.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    PuzzleSolutionPayload,
    SaPayload,
)
from ipsecfast.ike.wire.proposal import (
    accept_answer,
    additional_groups,
    group_text,
    key_exchange_groups,
    proposal_text,
    select,
    without_additional,
)
from ipsecfast.ike.work import Steps
from ipsecfast.model import IKE_PORT, NAT_T_PORT, Acquire, Proposal

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

# Cookies, then another group, then a fresh cookie: a responder that asks for more than this plays with us (s2.6.1).
MAX_RESTARTS = 6
NAT_HASH_LENGTH = 20


class IkeSaInit(Exchange):
    """The initiator's side. `child` is negotiated in the IKE_AUTH that follows."""

    type = ExchangeType.IKE_SA_INIT
    states = frozenset({IkeState.CONNECTING})

    def __init__(self, child: ChildConfig, packet: Acquire | None) -> None:
        self.child = child
        self.packet = packet
        self._cookie: NotifyPayload | None = None
        self._solution: PuzzleSolutionPayload | None = None
        self._group = 0  # the first of ours, or the one that the peer asks for
        self._key_exchange: KeyExchange | None = None
        self._nonce = b""
        self._restarts = 0

    def request(self, sa: IkeSa, now: float) -> Steps[Sequence[Payload]]:
        """The same nonce and proposals each time; a cookie stays in front once we were given one (s2.6)."""
        proposals = sa.connection.proposals
        if self._key_exchange is None:
            group = self._group or key_exchange_groups(proposals)[0]
            self._key_exchange, _ = yield from key_exchange.generate(sa.context, group)
        self._nonce = self._nonce or sa.context.nonce()
        return (
            *((self._cookie,) if self._cookie else ()),
            *((self._solution,) if self._solution else ()),
            SaPayload(proposals),
            KePayload(self._key_exchange.group, self._key_exchange.public),
            NoncePayload(self._nonce),
            *nat_detection(sa, ZERO_SPI),
            *fragmentation_offer(sa),
            *(intermediate_offer() if additional_groups(proposals) or sa.connection.config.ppks else ()),
            *hash_offer(sa),
            *ppk.offer(sa.connection.config),
            *redirect.offer(sa),
        )

    def response(self, sa: IkeSa, message: Message, now: float) -> Steps[None]:
        """Anyone on the path could have made this: what doesn't fit is passed over, the wait goes on (s2.21.1)."""
        if cookie := message.notify(NotifyType.COOKIE):
            self._solution = yield from puzzles.solve(sa, message, cookie.data)
            self._cookie = NotifyPayload(NotifyType.COOKIE, cookie.data)
            self._restart(sa, now, "it asks for a cookie")
        elif wanted := message.notify(NotifyType.INVALID_KE_PAYLOAD):
            self._another_group(sa, wanted, now)
        elif away := message.notify(NotifyType.REDIRECT):
            redirect.in_init(sa, away, self._nonce, now)
        elif message.errors():
            self._refused(sa, PeerError(message.errors()[0]), now)
        else:
            yield from self._accept(sa, message, now)

    def _restart(self, sa: IkeSa, now: float, why: str) -> None:
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            sa.fail(now, f"the peer keeps on asking for another IKE_SA_INIT; the last time {why}")
            return
        sa.restart(self)

    def _another_group(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """s1.2: again with the group that the responder takes, if we offered it."""
        group = int.from_bytes(notify.data, "big")
        offered = key_exchange_groups(sa.connection.proposals)
        used = self._key_exchange.group if self._key_exchange else 0
        if len(notify.data) != 2 or group not in offered or group == used:
            ours = ", ".join(map(group_text, offered))
            raise InvalidSyntax(f"the peer takes no key exchange but {group_text(group)}; we offered {ours}")
        self._group, self._key_exchange = group, None
        self._restart(sa, now, f"for group {group}")

    def _refused(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """Not authentic, but NO_PROPOSAL_CHOSEN would only come again; others may be forged, so we go on waiting."""
        if error.code != NotifyType.NO_PROPOSAL_CHOSEN:
            raise error
        sa.fail(now, *refused_proposals(sa.connection.proposals))

    def _accept(self, sa: IkeSa, message: Message, now: float) -> Steps[None]:
        assert self._key_exchange is not None
        proposal = accept_answer(require(message, SaPayload).proposals, sa.connection.proposals)
        ke, nonce = require(message, KePayload), require(message, NoncePayload).data
        if ke.group != self._key_exchange.group or ke.group not in key_exchange_groups((proposal,)):
            raise InvalidSyntax(f"the peer answered group {self._key_exchange.group} with group {ke.group}")
        if message.spi_r == ZERO_SPI:
            raise InvalidSyntax("the peer has no SPI")
        additional = additional_groups((proposal,))
        if additional and not offers_intermediate(message):
            raise InvalidSyntax("the peer chose an additional key exchange, but does not have IKE_INTERMEDIATE")
        shared, now = yield from key_exchange.shared_secret(self._key_exchange, ke.data)
        sa.spi_r, sa.vendor = message.spi_r, vendor_of(message)
        derive_keys(sa, proposal, (self._nonce, nonce), ke.group, shared)
        detect_nat(sa, message)
        agree_on_fragmentation(sa, message)
        take_wishes(sa.credentials, message)
        use_nat_port(sa)
        sa.request_concluded()
        try:
            ppk.take_answer(sa, message, intermediate=offers_intermediate(message))
            childless.take_answer(sa, message)
        except AuthenticationFailed as error:
            sa.fail(now, str(error))
            return
        sa.proceed(first_after_init(sa, additional, IkeAuth(self.child, self.packet)), now)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        """Nothing failed: it may have been a stranger's message, and the right one may still come."""
        sa.suspicion = str(error)
        sa.context.complain(now, "bad-response", f"{sa}: IKE_SA_INIT response passed over: {error}", "init-response")

    def abandoned(self, sa: IkeSa, now: float) -> None:
        sa.unserved.append((self.child, self.packet))


def respond(sa: IkeSa, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side; cookies were dealt with before (`endpoint`). Errors go back unprotected, no SA remains."""
    sa.vendor = vendor_of(message)
    offered = require(message, SaPayload).proposals
    ke, nonce_i = require(message, KePayload), require(message, NoncePayload).data
    intermediate = offers_intermediate(message)
    proposal = _select(sa, offered, intermediate=intermediate)
    groups = key_exchange_groups((proposal,))
    if ke.group not in groups:
        raise InvalidKePayload(groups[0], f"the peer sent a value for group {ke.group}, we take group {groups[0]}")
    sa.spi_i, sa.spi_r = message.spi_i, sa.own_spi
    (public, shared), _ = yield from key_exchange.respond(sa.context, ke.group, ke.data)
    nonce_r = sa.context.nonce()
    derive_keys(sa, proposal, (nonce_i, nonce_r), ke.group, shared)
    sa.additional = additional_groups((proposal,))
    redirect.note_support(sa, message)
    detect_nat(sa, message)
    agree_on_fragmentation(sa, message)
    take_wishes(sa.credentials, message)
    ppk_answer = ppk.answer(sa, message, intermediate=intermediate)
    # Only where something was agreed for it: Libreswan has an exchange about nothing as soon as both have said this.
    followed = sa.additional or ppk.awaited(sa)
    return (
        SaPayload((proposal,)),
        KePayload(ke.group, public),
        NoncePayload(nonce_r),
        *nat_detection(sa, sa.spi_r),
        *(fragmentation_offer(sa) if sa.fragments_in else ()),
        *(intermediate_offer() if followed else ()),
        *(hash_offer(sa) if sa.credentials.peer_hashes else ()),
        *ppk_answer,
        *childless.answer(sa),
        *requests(configs := [connection.config for connection in sa.candidates]),
        *announcements(sa, configs),
    )


def _select(sa: IkeSa, offered: Sequence[Proposal], *, intermediate: bool) -> Proposal:
    """The first connection for these addresses that accepts one of the proposals; the identities decide later."""
    reasons, mismatches = [], []
    for connection in sa.candidates:
        ours = connection.proposals if intermediate else without_additional(connection.proposals)
        try:
            if not ours:
                needed = Mismatch(Field.ADDITIONAL_KEY_EXCHANGE, proposal_text(connection.proposals[0]), "none")
                text = "additional key exchanges need IKE_INTERMEDIATE, which the peer does not have"
                raise NoProposalChosen(text).about(needed)
            proposal = select(offered, ours)
        except NoProposalChosen as error:
            reasons.append(f"{connection.config.name}: {error}")
            mismatches.append(error.mismatch)
            continue
        sa.context.ike_sas.assign(sa, connection)
        return proposal
    raise NoProposalChosen("; ".join(reasons)).about(mismatches[0] if len(mismatches) == 1 else None)


def derive_keys(sa: IkeSa, proposal: Proposal, nonces: tuple[bytes, bytes], group: int, shared: bytes) -> None:
    """s2.14: from the first exchange's secret to all keys of the IKE SA."""
    suite = Suite.of(proposal)
    sa.nonces = nonces
    sa.quantum_resistant = group in ML_KEM
    sa.install_keys(suite, derive_ike_keys(suite.prf, suite.encr, suite.integ, shared, *nonces, sa.spi_i, sa.spi_r))


def fragmentation_offer(sa: IkeSa) -> tuple[Payload, ...]:
    """RFC 7383 s2.3."""
    wanted = sa.connection.config.fragmentation is not Fragmentation.NO
    return (NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),) if wanted else ()


def intermediate_offer() -> tuple[Payload, ...]:
    """RFC 9242 s3.1."""
    return (NotifyPayload(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED),)


def offers_intermediate(message: Message) -> bool:
    return message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None


def hash_offer(sa: IkeSa) -> tuple[Payload, ...]:
    """RFC 7427 s4: the hashes of signatures that we can check, where any connection may need one."""
    if all(c.config.remote.method is AuthKind.PSK and c.config.local.method is AuthKind.PSK for c in sa.candidates):
        return ()
    hashes = b"".join(algorithm.to_bytes(2, "big") for algorithm in SUPPORTED_HASHES)
    return (NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, hashes),)


def agree_on_fragmentation(sa: IkeSa, message: Message) -> None:
    """RFC 7383 s2.3: only when both sides have said that they can."""
    theirs = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    ours = sa.connection.config.fragmentation
    sa.fragments_in = theirs and ours is not Fragmentation.NO
    sa.fragments_out = theirs and ours is Fragmentation.YES


def nat_detection(sa: IkeSa, spi_r: bytes) -> tuple[Payload, ...]:
    """s2.23: hashes of where we send from and to; none where ESP shall stay bare (`outer = "raw"`): who sends none does
    no NAT traversal. `encap = true`: a random source makes both ends see a NAT."""
    path = sa.path
    if not sa.connection.config.nat_traversal:
        return ()
    source = nat_detection_hash(sa.spi_i, spi_r, path.local, path.local_port)
    if sa.connection.config.encap:
        source = sa.context.random(NAT_HASH_LENGTH)
    return (
        NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, source),
        NotifyPayload(
            NotifyType.NAT_DETECTION_DESTINATION_IP,
            nat_detection_hash(sa.spi_i, spi_r, path.remote, path.remote_port),
        ),
    )


def detect_nat(sa: IkeSa, message: Message) -> None:
    """s2.23: the peer is behind a NAT if none of its sources is where the message came from; we are, if the
    destination is not where it arrived. A peer that sends neither does no NAT traversal."""
    if not sa.connection.config.nat_traversal:
        return
    path = sa.path
    sources = _hashes(message, NotifyType.NAT_DETECTION_SOURCE_IP)
    destinations = _hashes(message, NotifyType.NAT_DETECTION_DESTINATION_IP)
    seen = nat_detection_hash(message.spi_i, message.spi_r, path.remote, path.remote_port)
    here = nat_detection_hash(message.spi_i, message.spi_r, path.local, path.local_port)
    sa.remote_nat = bool(sources) and seen not in sources
    sa.local_nat = bool(destinations) and here not in destinations
    supported = bool(sources) and bool(destinations)
    sa.udp_encap = sa.remote_nat or sa.local_nat or (supported and sa.connection.config.encap)


def use_nat_port(sa: IkeSa) -> None:
    """s2.23: from here on both ports are 4500, where ESP goes in UDP."""
    if sa.udp_encap and sa.path.local_port == IKE_PORT:
        sa.path = replace(sa.path, local_port=NAT_T_PORT, remote_port=NAT_T_PORT)


def _hashes(message: Message, kind: NotifyType) -> list[bytes]:
    return [n.data for n in message.all(NotifyPayload) if n.notify_type == kind]
