"""Which URLs a webhook may have: what they say, in every spelling, and where they must not lead."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInputError
from headrace.webhooks.addresses import check_url, is_public
from headrace.webhooks.target import Target, read_target


def wide(digits: str) -> str:
    """Return the same digits in their full-width forms, which UTS 46 maps back."""
    return digits.translate({ord(digit): 0xFF10 + number for number, digit in enumerate("0123456789")})


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1"),  # noqa: S104 - refused, not bound
        *("127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192"),
        *("192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::ffff:0:127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1"),
        *("2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1"),
        *("fec0::1", "ff02::1", "4000::1"),
    ],
)
def test_address_is_refused_when_it_is_of_special_use(address: str) -> None:
    """Private, loopback, link-local, reserved, and every form of IPv6 that hides an IPv4 address."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
        *("172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255"),
        *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1"),
    ],
)
def test_address_is_public_when_it_is_beside_what_is_refused(address: str) -> None:
    """The bounds of the refused networks are theirs exactly."""
    assert is_public(ip_address(address))


@given(st.integers(0, 2**32 - 1))
def test_nothing_is_public_when_python_calls_it_private(number: int) -> None:
    """Our list is never wider than the standard library's."""
    address = IPv4Address(number)

    assert address.is_global or not is_public(address)


@given(st.integers(0, 2**32 - 1))
def test_no_ipv4_address_is_public_when_it_hides_in_ipv6(number: int) -> None:
    """Mapped, compatible, NAT64, 6to4: refused whatever is inside."""
    forms = (number, (0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80))

    assert not any(is_public(IPv6Address(form)) for form in forms)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/")),
        ("HTTP://Example.COM:8080/a/b?c=d&e", Target("http", "example.com", 8080, "/a/b?c=d&e")),
        ("https://example.com./hook", Target("https", "example.com", 443, "/hook")),
        ("https://bücher.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://EXAMPLE。com/", Target("https", "example.com", 443, "/")),
        ("https://under_score.example/%20", Target("https", "under_score.example", 443, "/%20")),
        ("https://8.8.8.8/", Target("https", "8.8.8.8", 443, "/", IPv4Address("8.8.8.8"))),
        (
            "https://[2606:4700:4700:0::1111]:8443/x",
            Target("https", "2606:4700:4700::1111", 8443, "/x", IPv6Address("2606:4700:4700::1111")),
        ),
    ],
)
def test_url_is_read_when_it_is_a_webhooks(url: str, target: Target) -> None:
    """Scheme, host, port and the rest, in one spelling."""
    assert check_url(url, allow_private=False) == target


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/"),
        *("https://", "https:///path", "https://:443/", "https://user@example.com/", "https://a:b@example.com/"),
        *("https://example.com@127.0.0.1/", "https://example.com/#x", "https://example.com/ x", " https://example.com"),
        *("https://example.com\t/", "https://exa\nmple.com/", "https://example.com\\@127.0.0.1/", "https://a\x00b.c/"),
        *("https://example.com:0/", "https://example.com:65536/", "https://example.com:x/", "https://example.com:-1/"),
        *(f"https://example.com:{wide('80')}/",),
        *("https://-a.example/", "https://a-.example/", "https://a..example/", "https://.example/", "https://a%2eb/"),
        *(f"https://{'a' * 64}.example/", f"https://{'a.' * 127}example/", f"https://example.com/{'x' * 2048}"),
        *("https://exa mple.com/", "https://example.com/ü", "https://[::1/", "https://[::1].example.com/"),
        *("https://x[2606:4700::1]/", "https://[2606:4700::1]x:80/", "https://[fe80::1%25eth0]/", "https://[v1.a]/"),
        *("http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/", "http://0177.0.0.1/"),
        *("http://017700000001/", "http://127.0.0.1.1/", "http://1.2.3.0x4/", "http://256.1.1.1/", "http://0x/"),
        *(f"http://{wide('127')}.1/", "http://\u00ad/", "http://xn--/"),
    ],
)
def test_url_is_refused_when_it_is_odd(url: str) -> None:
    """Whatever two readers could read in two ways is refused, with the field's name."""
    with pytest.raises(InvalidInputError) as refused:
        read_target(url, field="url")

    assert refused.value.errors[0].field == "url"


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:9000/", "http://127.0.0.1./", "http://[::1]/", "http://[::ffff:127.0.0.1]/"),
        *("http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:10.0.0.1]/", "http://10.1.2.3/", "http://0.0.0.0/"),
        *("http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://[fd00::1]/", "http://100.64.0.1/"),
        *("http://localhost:8000/", "http://LOCALHOST./", "http://a.localhost/", "http://metadata.google.internal/"),
        *(
            "http://printer.local/",
            "http://localhost.localdomain/",
            f"http://{wide('127.0.0.1')}/",
            "http://ⓛocalhost/",
        ),
    ],
)
def test_url_is_refused_unless_allowed_when_it_names_this_network(url: str) -> None:
    """It is 422 for `url`, unless the operator allows private addresses."""
    with pytest.raises(InvalidInputError, match="HEADRACE_WEBHOOK_ALLOW_PRIVATE") as refused:
        check_url(url, allow_private=False)

    assert refused.value.errors[0].field == "url"
    assert check_url(url, allow_private=True).scheme == "http"


@pytest.mark.parametrize("port", [1, 9, 22, 25, 53, 110, 143, 465, 587, 993, 2049, 5060, 6000, 6667, 10080])
def test_port_is_refused_unless_allowed_when_it_is_another_protocols(port: int) -> None:
    """A mail server takes a request line by line as if it were its own protocol."""
    with pytest.raises(InvalidInputError, match="another protocol") as refused:
        check_url(f"https://example.com:{port}/", allow_private=False)

    assert refused.value.errors[0].field == "url"
    assert check_url(f"https://example.com:{port}/", allow_private=True).port == port


@given(st.text(max_size=60))
def test_reader_never_crashes_when_hosts_are_anything(host: str) -> None:
    """It answers or refuses, and what it answers reads the same again."""
    try:
        target = read_target(f"http://{host}/")
    except InvalidInputError:
        return

    assert read_target(target.origin + target.rest) == target
