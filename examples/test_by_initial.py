import pytest
from by_initial import ByInitial

from mailgw.api import Route
from mailgw.testing import a_recipient, run

ROUTE = ByInitial("example.org", {"am": "north", "nz": "south"})


@pytest.mark.parametrize(
    ("to", "route"),
    [
        ("anna@example.org", Route("north", because="initial a")),
        ("Mike@example.org", Route("north", because="initial m")),
        ("nora@example.org", Route("south", because="initial n")),
        ("1@example.org", None),
        ("anna@example.com", None),
    ],
)
def test_by_initial(to, route):
    assert run(ROUTE.route(a_recipient(to))) == route
