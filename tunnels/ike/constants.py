"""Numbers of IKEv2 that IANA keeps (RFC 7296 section 3)."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

MAJOR_VERSION = 2

_Kind = TypeVar("_Kind", bound=IntEnum)


def named(kind: type[_Kind], number: int) -> _Kind | int:
    """Return the name of a number, or the number itself where it has none here."""
    try:
        return kind(number)
    except ValueError:
        return number


class ExchangeType(IntEnum):
    """RFC 7296 section 3.1."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37


class PayloadType(IntEnum):
    """RFC 7296 section 3.2, RFC 7383 section 2.5."""

    NONE = 0
    SECURITY_ASSOCIATION = 33
    KEY_EXCHANGE = 34
    IDENTIFICATION_INITIATOR = 35
    IDENTIFICATION_RESPONDER = 36
    CERTIFICATE = 37
    CERTIFICATE_REQUEST = 38
    AUTHENTICATION = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TRAFFIC_SELECTOR_INITIATOR = 44
    TRAFFIC_SELECTOR_RESPONDER = 45
    ENCRYPTED = 46
    CONFIGURATION = 47
    EXTENSIBLE_AUTHENTICATION = 48
    ENCRYPTED_FRAGMENT = 53


class Protocol(IntEnum):
    """What a proposal, a notification or a deletion is about (RFC 7296 section 3.3.1)."""

    NONE = 0
    IKE = 1
    AH = 2
    ESP = 3


class TransformType(IntEnum):
    """RFC 7296 section 3.3.2."""

    ENCRYPTION = 1
    PRF = 2
    INTEGRITY = 3
    KEY_EXCHANGE = 4
    SEQUENCE_NUMBERS = 5


class AttributeType(IntEnum):
    """RFC 7296 section 3.3.5."""

    KEY_LENGTH = 14


class SelectorType(IntEnum):
    """RFC 7296 section 3.13.1."""

    IPV4_RANGE = 7
    IPV6_RANGE = 8


class IdType(IntEnum):
    """RFC 7296 section 3.5."""

    IPV4_ADDRESS = 1
    FQDN = 2
    RFC822_ADDRESS = 3
    IPV6_ADDRESS = 5
    DER_DN = 9
    DER_GN = 10
    KEY_ID = 11


class AuthMethod(IntEnum):
    """RFC 7296 section 3.8, RFC 7427 section 7."""

    RSA_SIGNATURE = 1
    SHARED_KEY = 2
    ECDSA_256 = 9
    ECDSA_384 = 10
    ECDSA_521 = 11
    DIGITAL_SIGNATURE = 14


class CertificateEncoding(IntEnum):
    """RFC 7296 section 3.6."""

    X509_SIGNATURE = 4
    CRL = 7
    HASH_AND_URL = 12


class NotifyType(IntEnum):
    """RFC 7296 section 3.10.1: below 16384 errors, from there on status. RFC 7383, RFC 7427."""

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
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
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
    FRAGMENTATION_SUPPORTED = 16430
    SIGNATURE_HASH_ALGORITHMS = 16431
