"""For all tests: how long an example of Hypothesis takes is not asserted, as it depends on what else the machine does."""

from hypothesis import HealthCheck, settings

settings.register_profile("mailgw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mailgw")
