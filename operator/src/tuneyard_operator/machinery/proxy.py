"""Which HTTP proxy leads to a server: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, with the rules of kubectl and client-go."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass


def proxy_for(url: str) -> str | None:
    """The proxy's URL, or None where the server is reached directly.

    A loopback address never goes through a proxy. Besides names and addresses NO_PROXY may hold networks (10.0.0.0/8),
    which urllib does not know; in a cluster that is how the API server's address is usually exempted.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies_environment()
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return None
    # urllib compares NO_PROXY's entries with the host as it stands in the URL, with and without the port.
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if address and _in_networks(address, proxies.get("no", "")):
        return None
    return proxies.get(parts.scheme)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _in_networks(address: IPv4Address | IPv6Address, no_proxy: str) -> bool:
    for entry in no_proxy.split(","):
        try:
            if address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False
