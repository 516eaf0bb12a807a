"""Steps of a benchmark: their order, failures, and several processes that share them."""

import multiprocessing
import time

from benchmarks.accuracy.steps import Results, Step, run_steps


def test_steps_run_in_order_once(tmp_path):
    results, ran = Results(str(tmp_path / "results.json")), []

    def step(name, *needs):
        return Step(results, name, lambda: ran.append(name) or {"value": 1}, needs)

    steps = [step("first"), step("second", "first"), step("third")]
    assert run_steps(steps) == ([], [])
    assert ran == ["first", "second", "third"]
    assert results.read()["third"]["value"] == 1
    assert run_steps(steps) == ([], []) and len(ran) == 3
    results.drop("first")
    assert run_steps(steps, until=time.monotonic() - 1) == (steps[:1], []) and len(ran) == 3
    assert run_steps(steps) == ([], []) and ran[3:] == ["first"]


def test_steps_that_do_not_need_a_failed_one_go_on(tmp_path, capsys):
    results = Results(str(tmp_path / "results.json"))

    def step(name, *needs):
        return Step(results, name, lambda: {"value": 1 / (name != "broken")}, needs)

    steps = [
        step("broken"),
        step("after it", "broken"),
        step("after that", "after it"),
        step("other"),
        step("after the other", "other"),
    ]
    left, failed = run_steps(steps)
    assert left == steps[:3] and failed == steps[:1]
    assert set(results.read()) == {"other", "after the other"}
    assert "ZeroDivisionError" in capsys.readouterr().err


def _share(path, marks):
    results = Results(str(path))

    def run(name):
        # Fails if the step runs twice.
        (marks / name).mkdir()
        time.sleep(0.05)
        return {}

    run_steps([Step(results, str(n), lambda n=n: run(str(n))) for n in range(8)])


def test_processes_share_the_steps(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "results.json", marks)
    processes = [context.Process(target=_share, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    found = Results(str(tmp_path / "results.json")).read()
    assert set(found) == set(map(str, range(8)))
