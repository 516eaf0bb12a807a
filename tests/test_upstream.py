"""The comparison of upstream's own tests with and without the overlay."""

import pytest

from tests import upstream

SUITE = """
import os, pathlib, sys

patched = "stand_in_for_the_overlay" in sys.modules

def test_same():
    assert True

def test_always_fails():
    assert False

def test_of_the_unpatched():
    assert not patched

def test_of_the_patched():
    assert patched

def test_that_fails_once():
    marker = pathlib.Path(os.environ["MARKER"])
    if patched and not marker.exists():
        marker.touch()
        assert False
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with tests, and a plugin in the place of the overlay's."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "stand_in_for_the_overlay.py").touch()
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # They take most of the time.
    assert upstream.FORMS == {"plain": (), "overlay": ("-p", "blendprune.auto")}
    plugin = {"overlay": ("-p", "stand_in_for_the_overlay")}
    monkeypatch.setattr(upstream, "FORMS", {**upstream.FORMS, **plugin})
    return tmp_path


def test_what_fails_only_under_the_overlay_is_a_difference(checkout, capsys):
    (checkout / "tests" / "test_some.py").write_text(SUITE)
    assert upstream.main([str(checkout)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "plain      3 passed, 2 failed",
        "overlay    3 failed, 2 passed",
        "tests.test_some::test_of_the_unpatched: plain passed, overlay failed",
        "gained: tests.test_some::test_of_the_patched: plain failed, overlay passed",
        "1 difference, 1 gained",
    ]


def test_a_suite_that_does_not_care_has_no_difference(checkout, capsys):
    (checkout / "tests" / "test_some.py").write_text(SUITE)
    assert upstream.main([str(checkout), "-k", "same or always"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no differences"
    assert upstream.main([str(checkout), "-k", "same or of_the_patched"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no differences, 1 gained"


def test_a_folder_without_tests_is_refused(checkout, tmp_path_factory, capsys):
    assert upstream.main([str(checkout)]) == 2
    with pytest.raises(SystemExit):
        upstream.main([str(tmp_path_factory.mktemp("empty"))])
    assert "name a checkout of detectron2" in capsys.readouterr().err
