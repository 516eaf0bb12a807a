"""The demo's scenes, for the commands that come after it."""

import pytest
from detectron2.data import DatasetCatalog

from blendprune.config.imports import import_into
from blendprune.data.digits import DIGITS_TEST, write_digits
from blendprune.demo.data import SCENES
from blendprune.errors import ConfigError
from tests.helpers.digit_scenes import forget_digits

REGISTER = ["blendprune.demo.data:register"]


def test_the_scenes_of_the_working_directory_are_registered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_digits(SCENES, num_train=2, num_test=1, image_size=64)
    import_into(None, REGISTER)
    [record] = DatasetCatalog.get(DIGITS_TEST)
    assert record["file_name"].startswith(str(tmp_path / SCENES))
    forget_digits()


def test_without_the_demo_its_sentence_comes_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^there are no scenes of the demo in .*: run `blendpr"):
        import_into(None, REGISTER)
