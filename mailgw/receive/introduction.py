"""What XCLIENT changes about a client."""

from attrs import evolve

from mailgw.smtp.events import Hello, XClient
from mailgw.values.facts import ClientFacts

__all__ = ["greeted", "introduced", "together"]


def together(before: XClient | None, now: XClient) -> XClient:
    """What several XCLIENT commands say: the later ones add to the earlier, but a new address is a new client."""
    if before is None or now.ip is not None:
        return now
    return XClient(
        ip=before.ip,
        port=before.port if now.port is None else now.port,
        helo=now.helo or before.helo,
        esmtp=before.esmtp if now.esmtp is None else now.esmtp,
        login=before.login if now.login is None else now.login,
    )


def introduced(client: ClientFacts, said: XClient) -> ClientFacts:
    """The client as it stands at the greeting that follows: a login of the proxy's own is not the client's."""
    ip = client.ip if said.ip is None else said.ip
    port = said.port if said.port is not None else 0 if said.ip is not None else client.port
    return evolve(client, ip=ip, port=port, helo="", esmtp=False, login=said.login or "", early_talker=False)


def greeted(client: ClientFacts, event: Hello, said: XClient) -> ClientFacts:
    """The client after EHLO: what XCLIENT said of it holds, not how the proxy calls itself (``XCLIENT_README``)."""
    return evolve(client, helo=said.helo or event.name, esmtp=event.esmtp if said.esmtp is None else said.esmtp)
