"""Where webhooks may go: listed names, public or listed addresses, and no way around either."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_factory.destinations.callback_rules import CallbackRules, host_pattern, network
from unet_factory.domain.errors import CallbackRefused

RULES = CallbackRules(
    hosts=("hooks.example.org", "*.hospital.example"),
    networks=tuple(found for entry in ("10.1.0.0/16", "fd00::/8") if (found := network(entry))),
    schemes=("https",),
)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/a?b=c",
        "https://HOOKS.example.ORG:8443",
        "https://a.hospital.example/",
        "https://a.b.hospital.example/",
        "https://10.1.2.3/",
        "https://[fd00::1]/",
    ],
)
def test_listed_places_are_allowed(url: str) -> None:
    RULES.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "ftp://hooks.example.org/",
        "https://example.org/",
        "https://evil-hooks.example.org/",
        "https://hooks.example.org.evil.example/",
        "https://hospital.example/",
        "https://.hospital.example/",
        "https://evilhospital.example/",
        "https://10.2.0.1/",
        "https://127.0.0.1/",
        "https://0x0a010203/",
        "https://167838211/",
        "https://[::ffff:127.0.0.1]/",
        "https://hooks.example.org@evil.example/",
        "https://user:password@hooks.example.org/",
        "https://hooks.example.org\\@evil.example/",
        "https://hooks.example.org/#fragment",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org\n.evil.example/",
        "https://höoks.example.org/",
        "https:///path",
        "https://",
        "hooks.example.org",
        "",
        "https://hooks.example.org/" + "x" * 2000,
    ],
)
def test_all_else_is_refused(url: str) -> None:
    with pytest.raises(CallbackRefused):
        RULES.check_url(url)


def test_a_refusal_names_what_is_allowed() -> None:
    with pytest.raises(CallbackRefused, match=r"hooks\.example\.org, \*\.hospital\.example, 10\.1\.0\.0/16"):
        RULES.check_url("https://elsewhere.example/")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "10.1.255.255", "::ffff:10.1.0.1", "fd12::1"])
def test_public_and_listed_addresses_are_allowed(address: str) -> None:
    RULES.check_address(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.2.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "224.0.1.1", "255.255.255.255", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a02:1::"),
        *("64:ff9b:1::7f00:1", "64:ff9b:1:7f00:0:100::", "::127.0.0.1", "::10.2.0.1", "::ffff:0:127.0.0.1", "fec0::1"),
    ],
)
def test_inner_addresses_are_refused_in_every_disguise(address: str) -> None:
    with pytest.raises(CallbackRefused):
        RULES.check_address(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_bare_mapped_and_translated(address: ipaddress.IPv4Address) -> None:
    forms = [address, *(ipaddress.ip_address(f"{prefix}{address}") for prefix in ("::ffff:", "64:ff9b::", "::ffff:0:"))]
    assert len({_allowed(form) for form in forms}) == 1


@pytest.mark.parametrize("entry", ["", "*", "*.", "a b", "https://example.org", "*.*.example", "-a.example", "a..b"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host"):
        host_pattern(entry)


def _allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        RULES.check_address(address)
    except CallbackRefused:
        return False
    return True
