"""Files: written whole or not at all."""

import os

import pytest

from blendprune.files import save_atomically


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    # torch 2.8 on Python 3.13 passes on an AttributeError that does not say "pickle".
    with pytest.raises(Exception, match="pickle|local object"):
        save_atomically({"model": lambda: None}, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pth"]
