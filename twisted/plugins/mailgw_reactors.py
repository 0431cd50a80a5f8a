"""``twistd --reactor uvloop``."""

from twisted.application.reactors import Reactor

uvloop = Reactor("uvloop", "mailgw.uvloop_reactor", "An asyncio reactor on uvloop's event loop; needs mailgw[speed].")
