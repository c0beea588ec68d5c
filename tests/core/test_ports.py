"""Addresses to listen on."""

import pytest

from recommender.core.errors import ConfigurationError
from recommender.core.ports import check_port_is_free, listens


@pytest.mark.parametrize("host", ["..", "x" * 300, "\udcff"])
def test_what_can_be_no_host_is_a_misconfiguration(host: str) -> None:
    with pytest.raises(ConfigurationError, match="set PORT or HOST"):
        check_port_is_free(host, 8080)
    assert not listens(host, 8080)
