"""Host names as egress sees them: one spelling of each, and those that mean the machine or its cloud."""

import re
from typing import Final

MAX_NAME: Final = 253
"""The longest name, in characters without the root's dot (RFC 1035, 2.3.4: 255 octets on the wire)."""

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_FOREIGN_DOTS: Final = frozenset("\u3002\uff0e\uff61")

_MACHINE: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
"""Names of the machine itself: RFC 6761, 6.3, and Debian's /etc/hosts."""

_METADATA: Final = frozenset(
    {
        *("metadata.google.internal", "metadata.goog", "metadata"),  # Google Compute Engine, "Query VM metadata"
        *("instance-data.ec2.internal", "instance-data"),  # Amazon EC2's own DNS
        *("metadata.azure.internal", "metadata.azure.com"),
        "metadata.tencentyun.com",  # Tencent Cloud, "Viewing Instance Metadata"
        "metadata.cloud.ibm.com",  # IBM Cloud VPC, "Instance metadata": api.metadata.cloud.ibm.com
        *("metadata.platformequinix.com", "metadata.packet.net"),  # Equinix Metal, "Metadata"
        "rancher-metadata",  # Rancher 1.6, "Metadata service"
    }
)
"""Names of the services that hand a machine's credentials to whoever asks from within it."""

_SUFFIXES: Final = frozenset(
    {
        *("ac", "ed", "edu", "sch", "nhs", "web", "id"),
        *("co", "com", "ltd", "plc", "info", "me", "nom"),
        *("go", "gob", "gouv", "gov", "gv", "lg", "mil"),
        *("ne", "net", "or", "org", "re"),
    }
)
"""What makes a public suffix below a country's domain (`co.uk`); the common ones of publicsuffix.org."""


def normalise_name(text: str) -> str:
    """The one spelling of a host name: lower case, IDNA in its ASCII form, without the dot of the root.

    Raises ValueError for whatever is not a name, or looks like an address, or is read in two ways by the two versions
    of IDNA.
    """
    name = text.removesuffix(".")
    # Before the codec sees it: the codec takes time in the square of its length.
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} characters")
    labels = [_normalise_label(label) for label in name.split(".")]
    name = ".".join(labels)
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters in its xn-- form")
    if looks_numeric(labels[-1]):
        raise ValueError("a name's last label is not a number; it looks like an address")
    return name


def looks_numeric(label: str) -> bool:
    """Whether a name that ends in this label is an IPv4 address to some (WHATWG URL, 3.5: ends in a number)."""
    return _NUMBER.fullmatch(label.lower()) is not None


def unreachable(name: str) -> str | None:
    """Why a (normalised) name is never resolved, by whatever rule; None if it may be."""
    patterns = [name, *parents(name)]
    if not _MACHINE.isdisjoint(patterns):
        return "is the machine itself"
    if not _METADATA.isdisjoint(patterns) or _regional(name):
        return "is a cloud's metadata service"
    return None


def parents(name: str) -> list[str]:
    """The names that a (normalised) name lies below, the nearest first."""
    labels = name.split(".")
    return [".".join(labels[index:]) for index in range(1, len(labels))]


def is_broad(name: str) -> bool:
    """Whether everything below a (normalised) name belongs to many: a top-level domain, or one like `co.uk`.

    Public suffixes that are somebody's service (`github.io`) are not known here.
    """
    labels = name.split(".")
    return len(labels) == 1 or (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SUFFIXES)


def _regional(name: str) -> bool:
    # Amazon EC2 outside of us-east-1: instance-data.eu-west-1.compute.internal.
    return name.startswith("instance-data.") and name.endswith(".compute.internal")


def _normalise_label(label: str) -> str:
    plain = label.lower() if label.isascii() else _encoded(label)
    if not _LABEL.fullmatch(plain):
        raise ValueError("a name is labels of 1 to 63 letters, digits and inner hyphens, with dots between them")
    return plain


def _encoded(label: str) -> str:
    if not _FOREIGN_DOTS.isdisjoint(label):
        raise ValueError("write an ordinary dot between labels")
    try:
        encoded = label.encode("idna").decode("ascii")
        restored = encoded.encode("ascii").decode("idna")
    except UnicodeError:
        raise ValueError("a label is not IDNA; write its xn-- form") from None
    # The codec is IDNA 2003. What it changes beyond case (sharp s, final sigma, joiners, wide letters, what cannot be
    # seen) is what IDNA 2008 reads otherwise or not at all.
    if restored != label.lower() or not encoded.startswith("xn--"):
        raise ValueError("IDNA 2003 and 2008 do not agree on a label; write its xn-- form")
    return encoded
