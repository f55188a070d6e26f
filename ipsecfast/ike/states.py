"""The states of an IKE SA, the two roles in an exchange, and why an IKE SA ends."""

from __future__ import annotations

from enum import Enum, StrEnum


class IkeState(StrEnum):
    """What is allowed in each stands in `transitions.TRANSITIONS`."""

    CONNECTING = "connecting"  # IKE_SA_INIT and IKE_AUTH are under way
    ESTABLISHED = "established"
    REKEYED = "rekeyed"  # a successor has its Child SAs; only its DELETE is missing (RFC 7296 s2.8)
    DELETING = "deleting"  # our DELETE is under way
    CLOSED = "closed"  # only duplicates of the peer's last request are still answered


class Role(StrEnum):
    """Who began the exchange (not the IKE SA): we answer a request, or take the response to our own."""

    RESPONDER = "responder"
    INITIATOR = "initiator"


class Cause(Enum):
    """Why an IKE SA or Child SA ended; what follows (`close_action`, `dpd_action`, another attempt) depends on it."""

    OPERATOR = "the operator asked for it"
    REKEYED = "it was rekeyed"
    DUPLICATE = "another IKE SA with the same peer takes its place"
    PEER_DELETED = "the peer deleted it"
    PEER_DEAD = "the peer does not answer"
    PEER_RESTARTED = "the peer has restarted"
    REDIRECTED = "the peers of one gateway go to another"
    EXPIRED = "its lifetime is over"
    REFUSED = "it could not be negotiated"
    PROTOCOL = "the peer broke the protocol"
