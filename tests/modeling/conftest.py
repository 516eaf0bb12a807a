"""AdelaiDet beside our own BlendMask in one process."""

import pytest

from tests.helpers.small_blendmask import hide_ours, theirs_registered


@pytest.fixture(scope="session")
def upstream(request):
    """A context in which detectron2's registries hold AdelaiDet's entries."""
    # Its import registers its entries, which fails if ours are there already.
    hide_ours()
    request.getfixturevalue("adelaidet")
    return theirs_registered
