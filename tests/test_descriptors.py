import resource

import pytest

from mailgw.descriptors import Descriptors, raise_limit


@pytest.mark.parametrize(("limit", "seats"), [(64, 32), (1024, 524), (4096, 3596), (65536, 65036)])
def test_sessions_leave_the_rest_to_the_house(limit, seats):
    busy = [seats - 3, 2]
    descriptors = Descriptors(limit, [lambda: busy[0], lambda: busy[1]])
    assert descriptors.seats == seats
    assert not descriptors.is_full()
    busy[1] += 1
    assert descriptors.is_full()
    assert descriptors.warning(seats) == ""
    assert f"{limit} open files leaves room for {seats} sessions" in descriptors.warning(seats + 1)


def test_the_limit_is_raised_as_far_as_it_goes():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert raise_limit() == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
