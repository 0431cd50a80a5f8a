"""What the house provides before it is needed costs nothing, and works when it is."""

from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.web.iweb import IAgent
from zope.interface.verify import verifyObject

from mailgw.config.reading import read_text
from mailgw.house import make_house

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "bin"
[gateway.bin]
type = "discard"
"""


def test_the_agent_speaks_http_when_it_is_asked():
    reactor = MemoryReactorClock()
    agent = make_house(read_text(CONFIGURATION, "mailgw.toml", Path()), reactor)[IAgent]
    verifyObject(IAgent, agent)
    for path in (b"/one", b"/two"):
        agent.request(b"GET", b"http://127.0.0.1:8080" + path)
        host, port, _, timeout, _ = reactor.tcpClients.pop()
        assert (host, port, timeout) == ("127.0.0.1", 8080, 10.0)
