"""IANA's numbers of IKEv2, and one exception for every error notify (RFC 7296 s3.10.1)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

from ipsecfast.errors import ProtocolError
from ipsecfast.model import TransformType

if TYPE_CHECKING:
    from ipsecfast.ike.wire.mismatch import Mismatch

MAJOR_VERSION = 2
SPI_LENGTH = 8
ESP_SPI_LENGTH = 4
HEADER_LENGTH = 28
GENERIC_HEADER_LENGTH = 4
MIN_NONCE, MAX_NONCE = 16, 256
MAX_CLEAR_LENGTH = 8192  # RFC 7296 s2 asks for 3000; what a stranger makes us parse stays cheap


class PayloadType(IntEnum):
    """RFC 7296 s3.2; SKF is RFC 7383 s2.5, PS RFC 8019 s8.2."""

    NONE = 0
    SA = 33
    KE = 34
    IDi = 35
    IDr = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TSi = 44
    TSr = 45
    SK = 46
    CP = 47
    EAP = 48
    SKF = 53
    PS = 54


class ExchangeType(IntEnum):
    """RFC 7296 s3.1; IKE_INTERMEDIATE is RFC 9242, IKE_FOLLOWUP_KE RFC 9370."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_SESSION_RESUME = 38
    IKE_INTERMEDIATE = 43
    IKE_FOLLOWUP_KE = 44


# They make an IKE SA, and nothing protects them.
IN_CLEAR = frozenset({ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME})


class Flags(IntFlag):
    """RFC 7296 s3.1: the flags of the IKE header."""

    INITIATOR = 0x08
    VERSION = 0x10
    RESPONSE = 0x20


class IdType(IntEnum):
    """RFC 7296 s3.5."""

    ID_IPV4_ADDR = 1
    ID_FQDN = 2
    ID_RFC822_ADDR = 3
    ID_IPV6_ADDR = 5
    ID_DER_ASN1_DN = 9
    ID_DER_ASN1_GN = 10
    ID_KEY_ID = 11
    ID_NULL = 13


class AuthMethod(IntEnum):
    """RFC 7296 s3.8; ECDSA RFC 4754, NULL RFC 7619, DIGITAL_SIGNATURE RFC 7427."""

    RSA_DIGITAL_SIGNATURE = 1
    SHARED_KEY_MIC = 2
    DSS_DIGITAL_SIGNATURE = 3
    ECDSA_SHA256_P256 = 9
    ECDSA_SHA384_P384 = 10
    ECDSA_SHA512_P521 = 11
    NULL = 13
    DIGITAL_SIGNATURE = 14


class HashAlgorithm(IntEnum):
    """RFC 7427 s7: hashes for digital signatures; IDENTITY is RFC 8420."""

    SHA1 = 1
    SHA2_256 = 2
    SHA2_384 = 3
    SHA2_512 = 4
    IDENTITY = 5


class CertEncoding(IntEnum):
    """RFC 7296 s3.6; RAW_PUBLIC_KEY RFC 7670."""

    X509_SIGNATURE = 4
    CRL = 7
    HASH_AND_URL = 12
    OCSP_CONTENT = 14
    RAW_PUBLIC_KEY = 15


class TsType(IntEnum):
    """RFC 7296 s3.13.1; FC is RFC 4595, SECLABEL RFC 9478."""

    TS_IPV4_ADDR_RANGE = 7
    TS_IPV6_ADDR_RANGE = 8
    TS_FC_ADDR_RANGE = 9
    TS_SECLABEL = 10


class ConfigType(IntEnum):
    """RFC 7296 s3.15: what a Configuration payload is."""

    CFG_REQUEST = 1
    CFG_REPLY = 2
    CFG_SET = 3
    CFG_ACK = 4


class NotifyType(IntEnum):
    """RFC 7296 s3.10.1 and the registry: errors below 16384, status types from there on."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    INVALID_SELECTORS = 39
    UNACCEPTABLE_ADDRESSES = 40
    UNEXPECTED_NAT_DETECTED = 41
    USE_ASSIGNED_HOA = 42
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    INVALID_GROUP_ID = 45
    AUTHORIZATION_FAILED = 46
    STATE_NOT_FOUND = 47
    TS_MAX_QUEUE = 48

    INITIAL_CONTACT = 16384
    SET_WINDOW_SIZE = 16385
    ADDITIONAL_TS_POSSIBLE = 16386
    IPCOMP_SUPPORTED = 16387
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    USE_TRANSPORT_MODE = 16391
    HTTP_CERT_LOOKUP_SUPPORTED = 16392
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    NON_FIRST_FRAGMENTS_ALSO = 16395
    MOBIKE_SUPPORTED = 16396
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    AUTH_LIFETIME = 16403
    MULTIPLE_AUTH_SUPPORTED = 16404
    ANOTHER_AUTH_FOLLOWS = 16405
    REDIRECT_SUPPORTED = 16406
    REDIRECT = 16407
    REDIRECTED_FROM = 16408
    TICKET_LT_OPAQUE = 16409
    TICKET_REQUEST = 16410
    TICKET_ACK = 16411
    TICKET_NACK = 16412
    TICKET_OPAQUE = 16413
    LINK_ID = 16414
    USE_WESP_MODE = 16415
    ROHC_SUPPORTED = 16416
    EAP_ONLY_AUTHENTICATION = 16417
    CHILDLESS_IKEV2_SUPPORTED = 16418
    QUICK_CRASH_DETECTION = 16419
    IKEV2_MESSAGE_ID_SYNC_SUPPORTED = 16420
    IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED = 16421
    IKEV2_MESSAGE_ID_SYNC = 16422
    IPSEC_REPLAY_COUNTER_SYNC = 16423
    SECURE_PASSWORD_METHODS = 16424
    PSK_PERSIST = 16425
    PSK_CONFIRM = 16426
    ERX_SUPPORTED = 16427
    IFOM_CAPABILITY = 16428
    SENDER_REQUEST_ID = 16429
    IKEV2_FRAGMENTATION_SUPPORTED = 16430
    SIGNATURE_HASH_ALGORITHMS = 16431
    CLONE_IKE_SA_SUPPORTED = 16432
    CLONE_IKE_SA = 16433
    PUZZLE = 16434
    USE_PPK = 16435
    PPK_IDENTITY = 16436
    NO_PPK_AUTH = 16437
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438
    IP4_ALLOWED = 16439
    IP6_ALLOWED = 16440
    ADDITIONAL_KEY_EXCHANGE = 16441
    USE_AGGFRAG = 16442
    SUPPORTED_AUTH_METHODS = 16443
    SA_RESOURCE_INFO = 16444
    USE_PPK_INT = 16445
    PPK_IDENTITY_KEY = 16446


FIRST_STATUS_NOTIFY = 16384


class EncrId(IntEnum):
    """Transform type 1. The ones without a row in ALGORITHMS are here so that logs can name what a peer offers."""

    ENCR_3DES = 3
    ENCR_NULL = 11
    ENCR_AES_CBC = 12
    ENCR_AES_CTR = 13
    ENCR_AES_CCM_8 = 14
    ENCR_AES_CCM_12 = 15
    ENCR_AES_CCM_16 = 16
    ENCR_AES_GCM_8 = 18
    ENCR_AES_GCM_12 = 19
    ENCR_AES_GCM_16 = 20
    ENCR_NULL_AUTH_AES_GMAC = 21
    ENCR_CAMELLIA_CBC = 23
    ENCR_CHACHA20_POLY1305 = 28


class PrfId(IntEnum):
    """Transform type 2."""

    PRF_HMAC_MD5 = 1
    PRF_HMAC_SHA1 = 2
    PRF_AES128_XCBC = 4
    PRF_HMAC_SHA2_256 = 5
    PRF_HMAC_SHA2_384 = 6
    PRF_HMAC_SHA2_512 = 7
    PRF_AES128_CMAC = 8


class IntegId(IntEnum):
    """Transform type 3."""

    NONE = 0
    AUTH_HMAC_MD5_96 = 1
    AUTH_HMAC_SHA1_96 = 2
    AUTH_AES_XCBC_96 = 5
    AUTH_AES_CMAC_96 = 8
    AUTH_HMAC_SHA2_256_128 = 12
    AUTH_HMAC_SHA2_384_192 = 13
    AUTH_HMAC_SHA2_512_256 = 14


class KeGroup(IntEnum):
    """Transform type 4."""

    NONE = 0
    MODP_768 = 1
    MODP_1024 = 2
    MODP_1536 = 5
    MODP_2048 = 14
    MODP_3072 = 15
    MODP_4096 = 16
    MODP_6144 = 17
    MODP_8192 = 18
    ECP_256 = 19
    ECP_384 = 20
    ECP_521 = 21
    BRAINPOOL_P256R1 = 28
    BRAINPOOL_P384R1 = 29
    BRAINPOOL_P512R1 = 30
    CURVE25519 = 31
    CURVE448 = 32
    ML_KEM_512 = 35
    ML_KEM_768 = 36
    ML_KEM_1024 = 37


class SequenceNumbersId(IntEnum):
    """Transform type 5, under RFC 9827's names. The operator's words for the first two are swanctl's, noesn and esn.

    Numbers that nobody promises to be sequential (of several senders on one SA) allow no anti-replay; we have no use
    for them, and refuse them where a peer offers nothing else.
    """

    SEQUENTIAL_32 = 0
    PARTIALLY_TRANSMITTED_64 = 1
    UNSPECIFIED_32 = 2


# RFC 9370 s2.2.1: further key exchanges of one SA, in this order; their IDs are those of type 4.
ADDITIONAL_KES = tuple(TransformType(n) for n in range(TransformType.ADDKE1, TransformType.ADDKE7 + 1))
ML_KEM = frozenset({KeGroup.ML_KEM_512, KeGroup.ML_KEM_768, KeGroup.ML_KEM_1024})  # what no quantum computer undoes

TRANSFORM_IDS: MappingProxyType[int, type[IntEnum]] = MappingProxyType(
    {
        TransformType.ENCR: EncrId,
        TransformType.PRF: PrfId,
        TransformType.INTEG: IntegId,
        TransformType.KE: KeGroup,
        TransformType.SN: SequenceNumbersId,
        **dict.fromkeys(ADDITIONAL_KES, KeGroup),
    }
)


class IntegrityError(ProtocolError):
    """A protected message whose ICV is wrong or missing: nothing in it may be believed or answered (RFC 7296 s2.21)."""


class NotifyError(ProtocolError):
    """What is answered with an error notify. An exchange raises it; `notify_type` and `notify_data` are the answer.

    `meaning` is the one sentence of logs; `detail` says what exactly was wrong this time.
    """

    notify_type: ClassVar[NotifyType]
    meaning: ClassVar[str]

    def __init__(self, detail: str = "", notify_data: bytes = b"") -> None:
        super().__init__(detail or self.meaning)
        self.detail = detail
        self.notify_data = notify_data
        self.mismatch: Mismatch | None = None

    def about(self, mismatch: Mismatch | None) -> Self:
        """The same error, which now knows what the two ends want differently."""
        self.mismatch = mismatch
        return self


class UnsupportedCriticalPayload(NotifyError):
    """`payload_type` is the one octet of notify data."""

    notify_type = NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    meaning = "a payload marked critical is of a type that is not supported"

    def __init__(self, payload_type: int, detail: str = "") -> None:
        super().__init__(detail or f"critical payload of unknown type {payload_type}", bytes([payload_type]))
        self.payload_type = payload_type


class InvalidIkeSpi(NotifyError):
    """Sent unprotected and rate limited, if at all (s2.21.4)."""

    notify_type = NotifyType.INVALID_IKE_SPI
    meaning = "the message is for an IKE SA that does not exist here"


class InvalidMajorVersion(NotifyError):
    """Answered with the closest version that is supported, in the header (s2.5)."""

    notify_type = NotifyType.INVALID_MAJOR_VERSION
    meaning = "the message is of an IKE version that is not supported"


class InvalidSyntax(NotifyError):
    """Sent only in an authenticated answer, or to IKE_SA_INIT (s2.21)."""

    notify_type = NotifyType.INVALID_SYNTAX
    meaning = "the message is malformed"


class InvalidMessageId(NotifyError):
    """Sent in an INFORMATIONAL request, never as a response (s2.3)."""

    notify_type = NotifyType.INVALID_MESSAGE_ID
    meaning = "the message ID is outside the window"

    def __init__(self, message_id: int, detail: str = "") -> None:
        super().__init__(detail or f"message ID {message_id} is outside the window", message_id.to_bytes(4, "big"))
        self.message_id = message_id


class InvalidSpi(NotifyError):
    """ESP arrived for an SPI that is not ours (s1.5); `spi` is the notify data."""

    notify_type = NotifyType.INVALID_SPI
    meaning = "an ESP packet carried an SPI that does not exist here"

    def __init__(self, spi: int, detail: str = "") -> None:
        super().__init__(detail or f"no SA with SPI {spi:08x}", spi.to_bytes(4, "big"))
        self.spi = spi


class NoProposalChosen(NotifyError):
    """s2.7: with the reason that `proposal.mismatch_text` gives."""

    notify_type = NotifyType.NO_PROPOSAL_CHOSEN
    meaning = "none of the proposed combinations of algorithms is acceptable"


class InvalidKePayload(NotifyError):
    """s1.3: the key exchange method has to be `group`."""

    notify_type = NotifyType.INVALID_KE_PAYLOAD
    meaning = "the key exchange must use another group, which the notify names"

    def __init__(self, group: int, detail: str = "") -> None:
        super().__init__(detail or f"the key exchange must use group {group}", group.to_bytes(2, "big"))
        self.group = group


class AuthenticationFailed(NotifyError):
    """s2.21.2: the IKE SA ends. The detail stays in our log, the peer learns nothing more."""

    notify_type = NotifyType.AUTHENTICATION_FAILED
    meaning = "the peer could not prove its identity"


class SinglePairRequired(NotifyError):
    """s2.9: the request should come again with selectors of one address pair."""

    notify_type = NotifyType.SINGLE_PAIR_REQUIRED
    meaning = "only selectors of a single pair of addresses are acceptable"


class NoAdditionalSas(NotifyError):
    """s1.3: no further Child SA on this IKE SA."""

    notify_type = NotifyType.NO_ADDITIONAL_SAS
    meaning = "no more Child SAs are accepted on this IKE SA"


class InternalAddressFailure(NotifyError):
    """s2.19: in answer to a Configuration payload."""

    notify_type = NotifyType.INTERNAL_ADDRESS_FAILURE
    meaning = "no internal address could be assigned"


class FailedCpRequired(NotifyError):
    """s2.19: the responder insists on CP(CFG_REQUEST)."""

    notify_type = NotifyType.FAILED_CP_REQUIRED
    meaning = "the peer must ask for configuration and did not"


class TsUnacceptable(NotifyError):
    """s2.9: the intersection of the selectors is empty."""

    notify_type = NotifyType.TS_UNACCEPTABLE
    meaning = "none of the proposed traffic selectors is acceptable"


class InvalidSelectors(NotifyError):
    """s1.5: an ESP packet whose inner addresses are outside its SA's selectors; data is the start of that packet."""

    notify_type = NotifyType.INVALID_SELECTORS
    meaning = "an ESP packet did not match the selectors of its SA"


class UnacceptableAddresses(NotifyError):
    """RFC 4555 s3.5."""

    notify_type = NotifyType.UNACCEPTABLE_ADDRESSES
    meaning = "the peer's new addresses are not acceptable"


class UnexpectedNatDetected(NotifyError):
    """RFC 4555 s3.9."""

    notify_type = NotifyType.UNEXPECTED_NAT_DETECTED
    meaning = "a NAT stands on the path though the peer forbade it"


class UseAssignedHoa(NotifyError):
    """RFC 5026 s8.2."""

    notify_type = NotifyType.USE_ASSIGNED_HOA
    meaning = "the peer must use the home address that was assigned to it"


class TemporaryFailure(NotifyError):
    """s2.25: the peer should try again later."""

    notify_type = NotifyType.TEMPORARY_FAILURE
    meaning = "the request cannot be served at the moment and may be tried again"


class ChildSaNotFound(NotifyError):
    """s2.25: the Child SA to be rekeyed is gone."""

    notify_type = NotifyType.CHILD_SA_NOT_FOUND
    meaning = "the Child SA that the request names does not exist"


class InvalidGroupId(NotifyError):
    """draft-yeung-g-ikev2."""

    notify_type = NotifyType.INVALID_GROUP_ID
    meaning = "the group that the request names does not exist"


class AuthorizationFailed(NotifyError):
    """draft-yeung-g-ikev2."""

    notify_type = NotifyType.AUTHORIZATION_FAILED
    meaning = "the peer is not allowed to do this"


class StateNotFound(NotifyError):
    """RFC 9370 s2.2.4."""

    notify_type = NotifyType.STATE_NOT_FOUND
    meaning = "the additional key exchange belongs to no exchange that is under way"


class TsMaxQueue(NotifyError):
    """RFC 9611 s5.2: no more Child SAs with these selectors for the time being; those that there are stay."""

    notify_type = NotifyType.TS_MAX_QUEUE
    meaning = "there are as many per-resource Child SAs with these selectors as the gateway wants"


ERRORS: MappingProxyType[int, type[NotifyError]] = MappingProxyType(
    {error.notify_type: error for error in NotifyError.__subclasses__()}
)


def notify_name(notify_type: int) -> str:
    """IANA's name, or the number of a type that we don't know."""
    return NotifyType(notify_type).name if notify_type in NotifyType.__members__.values() else f"notify {notify_type}"


def is_error(notify_type: int) -> bool:
    """RFC 7296 s3.10.1: types below 16384 are errors, whether we know them or not."""
    return notify_type < FIRST_STATUS_NOTIFY


def error_meaning(notify_type: int) -> str:
    """One sentence for a log: what an error notify from a peer says. Unknown ones have failed the request (s3.10.1)."""
    error = ERRORS.get(notify_type)
    return error.meaning if error else f"the peer refused the request with the unknown error {notify_type}"
