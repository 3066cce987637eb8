"""Where webhooks may go: which hosts by name, which addresses by number. Nothing here touches the network."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from unet_factory.domain.errors import CallbackRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

MAX_URL = 2000

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_PATTERN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"([0-9.]+|[0-9a-fA-F.]*:[0-9a-fA-F:.]*)(/.*)?")
# IPv6 prefixes whose last 32 bits are an IPv4 address: NAT64 (RFC 6052), IPv4-translated (RFC 2765), IPv4-compatible
# (RFC 4291 section 2.5.5.1, deprecated, but still routed by some)
_ENDING_IN_IPV4 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")))
# Not global, though Python's ipaddress takes them for it: NAT64 of a local network (RFC 8215), which may put the IPv4
# address anywhere (RFC 6052 section 2.2); site-local addresses (RFC 3879)
_LOCAL = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10")))


@dataclass(frozen=True)
class CallbackRules:
    """``hosts`` are names or ``*.domain`` (any name below it), ``networks`` are listed addresses."""

    hosts: tuple[str, ...]
    networks: Networks
    schemes: tuple[str, ...]

    def check_url(self, url: str) -> SplitResult:
        """The URL's parts, if something may be sent there as far as its text tells.

        Raises:
            CallbackRefused: it says what is allowed.
        """
        parts = _parts(url)
        host = parts.hostname or ""
        if parts.scheme not in self.schemes:
            raise self._refused(f"the URL's scheme must be {' or '.join(self.schemes)}")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise self._refused("the URL must have neither credentials nor a fragment")
        literal = _literal(host)
        if not (self._listed(literal) if literal else self._named(host)):
            raise self._refused(f"the host {host[:100]!r} is not allowed")
        return parts

    def check_address(self, address: Address) -> None:
        """Judge an address that a host's name stands for now.

        Raises:
            CallbackRefused: it is private, loopback, link-local or otherwise not public, and not listed either.
        """
        if not (self._listed(address) or _public(address)):
            raise self._refused("the host's address is not public, and not in a listed network")

    def _named(self, host: str) -> bool:
        return any(
            host.endswith(pattern[1:]) and len(host) >= len(pattern) if pattern.startswith("*.") else host == pattern
            for pattern in self.hosts
        )

    def _listed(self, address: Address) -> bool:
        return any(_embedded(address) in listed for listed in self.networks)

    def _refused(self, why: str) -> CallbackRefused:
        allowed = [*self.hosts, *map(str, self.networks)]
        return CallbackRefused(f"{why}; allowed are {', '.join(allowed) or 'none'}", allowed=allowed)


def network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """An entry of an allow-list as a network; None where it is a host.

    Raises:
        ValueError: an address with bits beyond its mask.
    """
    return ipaddress.ip_network(entry) if _NUMERIC.fullmatch(entry) else None


def host_pattern(entry: str) -> str:
    """
    Raises:
        ValueError: neither a host's name nor ``*.`` and one.
    """
    pattern = entry.lower()
    if not _HOST_PATTERN.fullmatch(pattern):
        raise ValueError(f"{entry!r} is neither a host, nor *.domain, nor an address or network")
    return pattern


def scheme(text: str) -> str:
    """
    Raises:
        ValueError: not http or https.
    """
    if text not in ("http", "https"):
        raise ValueError(f"{text!r} must be http or https")
    return text


def _parts(url: str) -> SplitResult:
    if len(url) > MAX_URL or not url.isascii() or any(character <= " " or character == "\\" for character in url):
        raise CallbackRefused(f"the URL must be at most {MAX_URL} printable ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises for an invalid port)
    except ValueError:
        raise CallbackRefused("the callback URL is malformed") from None
    if not parts.hostname:
        raise CallbackRefused("the callback URL has no host")
    return parts


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _public(address: Address) -> bool:
    inner = _embedded(address)
    return inner.is_global and not inner.is_multicast and not any(inner in local for local in _LOCAL)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, else the address itself.

    Mapped, translated, compatible, NAT64, 6to4, or Teredo's client.
    """
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback or address.is_unspecified:
        return address
    if any(address in prefix for prefix in _ENDING_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
