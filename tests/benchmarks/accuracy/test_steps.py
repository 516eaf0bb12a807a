"""Steps of a benchmark: their order, and several processes that share them."""

import multiprocessing
import time

from benchmarks.accuracy.steps import Results, Step, run_steps


def test_steps_run_in_order_once_and_wait_for_what_they_need(tmp_path):
    results, ran = Results(str(tmp_path / "results.json")), []

    def step(name, *needs):
        return Step(results, name, lambda: ran.append(name) or {"value": 1}, needs)

    steps = [step("second", "first"), step("first"), step("third")]
    assert run_steps(steps) == 0
    assert ran == ["first", "second", "third"]
    assert results.read()["third"]["value"] == 1
    assert run_steps(steps) == 0 and len(ran) == 3
    results.drop("first")
    assert run_steps(steps, until=time.monotonic() - 1) == 1 and len(ran) == 3
    assert run_steps(steps) == 0 and ran[3:] == ["first"]


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
