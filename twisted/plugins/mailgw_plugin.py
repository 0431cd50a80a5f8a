"""``twistd mailgw``."""

from twisted.application.service import ServiceMaker

mailgw = ServiceMaker("mailgw", "mailgw.tap", "A pluggable mail gateway.", "mailgw")
