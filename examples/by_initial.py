"""A route; the door is ``type = "by_initial:ByInitial"``: any class in a module on the Python path."""

from mailgw.api import GatewayName, IRoute, Route, frozen, implementer


@implementer(IRoute)
@frozen
class ByInitial:
    """Mailboxes are spread over servers by their first letter: ``{ "am" = "north", "nz" = "south" }`` is a to m, and n to z."""

    domain: str
    gateways: dict[str, GatewayName]  # that they exist is checked at the start

    def route(self, facts):
        if facts.recipient.domain == self.domain:
            initial = facts.recipient.folded[0]
            for letters, gateway in self.gateways.items():
                if letters[0] <= initial <= letters[-1]:
                    return Route(gateway, because=f"initial {initial}")
        return None
