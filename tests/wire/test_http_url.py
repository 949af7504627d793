"""URLs of HTTP functions: read once, into what a request is made of."""

from __future__ import annotations

import pytest

from iii_anyio._wire.http_url import HttpUrl


@pytest.mark.parametrize(
    ("text", "host", "port", "host_header", "target"),
    [
        ("http://example.com", "example.com", 80, "example.com", "/"),
        ("HTTPS://Example.COM/A?b=c&d#e", "example.com", 443, "example.com", "/A?b=c&d"),
        ("http://h:8080?q", "h", 8080, "h:8080", "/?q"),
        ("http://h/ä%20b?q=ü%2F", "h", 80, "h", "/%C3%A4%20b?q=%C3%BC%2F"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/"),
        ("http://[2001:DB8:0::1]:81/", "2001:db8::1", 81, "[2001:db8::1]:81", "/"),
        ("http://127.0.0.1/", "127.0.0.1", 80, "127.0.0.1", "/"),
    ],
)
def test_a_url_has_these_parts(text: str, host: str, port: int, host_header: str, target: str) -> None:
    url = HttpUrl.parse(text)
    assert (url.host, url.port, url.host_header, url.target) == (host, port, host_header, target)
    assert url.is_secure is text.lower().startswith("https")
    assert (url.address is not None) is (host[0].isdigit())


def test_credentials_are_kept_out_of_what_is_shown() -> None:
    url = HttpUrl.parse("https://me%40h:s%3Acret@h:444/x?token=hidden")
    assert url.credentials == b"me@h:s:cret"
    assert str(url) == "https://h:444/x"
    assert "cret" not in repr(url)
    assert HttpUrl.parse("http://me@h").credentials == b"me:"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "scheme"),
        ("example.com", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("http:///path", "no host"),
        ("http://h:x/", "no URL"),
        ("http://h:99999/", "no URL"),
        ("http://h:0/", "port 0"),
        ("http://[1::2", "no URL"),
        ("http://[fe80::1%eth0]/", "no IPv6 address|no URL"),
        ("http://a b/", "blank"),
        ("http://h/\r\nX: y", "control"),
        ("http://good\\@evil/", "backslash"),
        ("http://a..b/", "no name"),
        ("http://a%2eb/", "character"),
        (f"http://{'a.' * 200}b/", "character"),
    ],
)
def test_what_is_no_url_of_a_request_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HttpUrl.parse(text)
