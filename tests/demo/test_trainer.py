"""The demo's trainer: what it says while it trains."""

import logging
from types import SimpleNamespace

from blendprune.demo.trainer import EvaluationLog
from blendprune.training import KeepBest


def _results(ap):
    return {"bbox": {"AP": ap}, "segm": {"AP": ap + 1}}


def test_each_evaluation_is_logged_once_the_one_at_the_start_included(caplog):
    keeper, log = KeepBest(), EvaluationLog()
    keeper.results[0] = _results(70.0)
    log.trainer = SimpleNamespace(_hooks=[keeper, log], max_iter=3)
    first, second = _results(60.0), _results(50.0)
    with caplog.at_level(logging.INFO, "blendprune.demo.trainer"):
        log.before_train()
        for log.trainer.iter, log.trainer._last_eval_results in enumerate([None, first, first]):
            log.after_step()
        log.trainer._last_eval_results = second
        log.after_step()
    assert caplog.messages == [
        "at the start: mask AP 71.0, box AP 70.0",
        "iteration    2 / 3   mask AP 61.0, box AP 60.0",
        "iteration    3 / 3   mask AP 51.0, box AP 50.0",
    ]
