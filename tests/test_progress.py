"""Progress: silent by default, lines in a log, bars where a terminal is."""

from blendprune.progress import LoggedProgress, Progress, TerminalProgress


def test_the_base_class_is_silent(capsys):
    progress = Progress()
    progress.stage("loading")
    progress.steps("round")(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_every_stage_and_step():
    lines = []
    progress = LoggedProgress(lines.append)
    progress.stage("loading")
    step = progress.steps("round")
    step(1, 2)
    step(2, 2)
    assert lines == ["loading", "round 1 of 2", "round 2 of 2"]


def test_without_a_terminal_stages_are_printed_and_steps_are_not(capsys):
    progress = TerminalProgress()
    progress.stage("loading")
    step = progress.steps("round")
    for done in (1, 2, 1, 2):  # two levels of two rounds each
        step(done, 2)
    assert capsys.readouterr() == ("- loading\n", "")
