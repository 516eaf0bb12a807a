"""Files: written whole or not at all."""

import io
import os

import pytest
import torch
from detectron2.utils.file_io import PathManager

from blendprune.files import WholeFiles, save_atomically


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    # torch 2.8 on Python 3.13 passes on an AttributeError that does not say "pickle".
    with pytest.raises(Exception, match="pickle|local object"):
        save_atomically({"model": lambda: None}, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("calls", [1, 3, 9])
def test_ctrl_c_while_a_file_is_written_is_no_other_error(tmp_path, monkeypatch, calls):
    class Interrupted(io.FileIO):
        left = calls

        def write(self, data):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().write(data)

    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    monkeypatch.setattr(PathManager, "open", lambda path, mode: Interrupted(path, "w"))
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"model": {str(i): torch.ones(5000) for i in range(9)}}, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_a_path_manager_of_whole_files_is_upstreams_otherwise(tmp_path):
    files, path = WholeFiles(PathManager), str(tmp_path / "x.txt")
    with files.open(path, "w", encoding="utf-8", newline="\r\n") as file:
        file.write("ä\n")
        assert not files.exists(path)
    with files.open(path, "rb") as file:
        assert file.read() == "ä\r\n".encode()
    with files.open(path, "a") as file:
        file.write("b")
    with pytest.raises(ZeroDivisionError), files.open(path, "w") as file:
        file.write("lost")
        file.write(str(1 / 0))
    with files.open(path) as file:
        assert file.read() == "ä\nb"
    assert os.listdir(tmp_path) == ["x.txt"]
