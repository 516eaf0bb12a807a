"""A prune that is interrupted goes on behind any of its rounds, and ends as if it had not been."""

import copy
import io
import itertools
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm

from blendprune import distributed
from blendprune.errors import ConfigError, TargetUnreachable
from blendprune.pruning import prune
from blendprune.pruning.scores import partial_sums
from blendprune.pruning.search import rounds
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.processes import in_processes
from tests.helpers.state import remember, unchanged

BATCHES = [chain_inputs(seed) for seed in range(4)]
LEVELS = {"max_flops": 0.3, "levels": [0.8, 0.6], "rounds": 2}


def _dense():
    torch.manual_seed(0)
    return Chain().eval()


@pytest.fixture
def dense():
    return _dense()


@pytest.fixture(scope="module")
def whole():
    """A prune that nothing interrupts."""
    return _Run(_dense(), **LEVELS)


class _Run:
    """A prune of a copy of a model: what it gives, its states, and the levels that it tells of."""

    def __init__(self, dense, resume=None, data=BATCHES, images=None, **how):
        self.model, self.states, self.levels, self.rounds = copy.deepcopy(dense), [], {}, []
        self.report = prune(
            self.model,
            images or chain_inputs(),
            data=data,
            resume=resume and torch.load(io.BytesIO(resume), weights_only=True),
            on_round=self._keep_state,
            on_level=self._keep_level,
            progress=lambda *done: self.rounds.append(done),
            **{"round_to": 1, **how},
        )

    def _keep_state(self, state):
        file = io.BytesIO()
        torch.save(state, file)
        self.states.append(file.getvalue())

    def _keep_level(self, level, report):
        self.levels[level] = _weights(self.model), report.flops


def _weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(ours, theirs):
    return list(ours) == list(theirs) and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def _check_going_on(dense, whole, numbers, **how):
    """Go on behind some of the rounds; returns the levels that are told of then."""
    told = []
    for number in numbers:
        again = _Run(dense, whole.states[number - 1], **how)
        assert _equal(_weights(whole.model), _weights(again.model))
        assert again.rounds == whole.rounds
        assert len(again.states) == len(whole.states) - number
        for name in ("flops", "layers", "round_to", "memory_mb"):
            assert getattr(again.report, name) == getattr(whole.report, name)
        [note] = set(again.report.notes) - set(whole.report.notes)
        assert note.startswith(f"went on behind round {number} of an interrupted prune")
        assert [x for x in again.report.notes if x != note] == whole.report.notes
        for level, (weights, flops) in again.levels.items():
            assert _equal(weights, whole.levels[level][0]) and flops == whole.levels[level][1]
        told.append(list(again.levels))
    return told


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"importance": "taylor", "normalize": "params"},
        {"importance": "magnitude", "global_pruning": False},
        {"max_flops": None, "pruning_ratio": 0.6, "levels": [0.3]},
        {"max_flops": None, "max_memory": 0.5, "levels": [0.7], "round_to": "auto"},
        {"pruning_ratio_dict": {"first": 0.1}},
        {"reconstruct": False},
    ],
)
def test_a_prune_goes_on_behind_each_round_and_ends_bit_for_bit_the_same(dense, how):
    how = {name: value for name, value in {**LEVELS, **how}.items() if value is not None}
    how["levels"] = how["levels"][:1]
    whole = _Run(dense, **how)
    assert len(whole.states) == 4 and len(whole.levels) == 1
    _check_going_on(dense, whole, [1, 3], **how)


def test_rounds_that_have_nothing_to_remove_are_repeated_too(dense):
    how = {"max_flops": 0.268, "rounds": 5, "round_to": 30, "importance": "magnitude"}
    whole = _Run(dense, **how)
    removed = torch.load(io.BytesIO(whole.states[-1]), weights_only=True)["removed"]
    assert {} in removed and len(removed) == 5
    _check_going_on(dense, whole, [removed.index({}) + 1, 5], **how)


@pytest.mark.parametrize("importance", ["obs", "fisher", "hessian"])
def test_a_scoring_goes_on_behind_any_image(dense, monkeypatch, importance):
    how = {"importance": importance, "max_flops": 0.4, "rounds": 2}
    plain = _Run(dense, **how)
    monkeypatch.setattr(partial_sums, "_SECONDS", 0)
    whole = _Run(dense, **how)
    # Of each round one behind each image, and one at the end.
    assert len(whole.states) == 2 * (len(BATCHES) + 1)
    for number in (1, 4, 8):
        again = _Run(dense, whole.states[number - 1], **how)
        assert len(again.states) == len(whole.states) - number
        assert _equal(_weights(plain.model), _weights(again.model))
        assert again.report.layers == plain.report.layers


def test_a_scoring_of_minutes_is_kept_every_five_and_at_its_end(dense, monkeypatch):
    clock = itertools.count(step=200)
    monkeypatch.setattr(partial_sums, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    images = [chain_inputs(seed) for seed in range(5)]
    run = _Run(dense, data=images, max_flops=0.7, rounds=1)
    states = [torch.load(io.BytesIO(state), weights_only=True) for state in run.states]
    assert [state.get("scoring", {}).get("images") for state in states] == [2, 4, 5, None]
    assert [len(state["removed"]) for state in states] == [0, 0, 0, 1]


def test_a_short_scoring_is_not_kept(whole):
    assert len(whole.states) == 6


def test_sums_that_do_not_fit_are_refused_and_the_model_stays(dense, monkeypatch):
    monkeypatch.setattr(partial_sums, "_SECONDS", 0)
    state = torch.load(io.BytesIO(_Run(dense, **LEVELS).states[1]), weights_only=True)
    state["scoring"]["sums"].pop()
    before = remember(dense)
    with pytest.raises(ConfigError, match="scores that an interrupted prune left do not fit"):
        prune(dense, chain_inputs(), data=BATCHES, round_to=1, resume=state, **LEVELS)
    assert unchanged(dense, before)


def test_levels_that_are_done_are_not_told_of_again(dense, whole):
    told = _check_going_on(dense, whole, range(1, 7), **LEVELS)
    # A level whose last round was the last of all may not have been saved.
    assert told == [[0.8, 0.6], [0.8, 0.6], [0.6], [0.6], [], []]


def test_scores_and_reconstruction_of_repeated_rounds_are_not_computed(dense, monkeypatch):
    counts = []
    for module, name in ((rounds, "score_groups"), (rounds.Reconstruction, "__call__")):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, f=function: counts.append(f.__name__) or f(*args)
        )
    whole = _Run(dense, **LEVELS)
    assert counts == ["score_groups", "__call__"] * 6
    for number, state in enumerate(whole.states, 1):
        counts.clear()
        _Run(dense, state, **LEVELS)
        assert counts == ["score_groups", "__call__"] * (6 - number)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", 2),
    ],
)
def test_a_blendmask_goes_on_behind_each_round(blendmask, images, batches, options):
    dense, how = blendmask(*options), {"max_flops": 0.4, "levels": [0.7], "round_to": "auto"}
    whole = _Run(dense, data=batches, images=images, **how)
    assert len(whole.states) == 3
    _check_going_on(dense, whole, [1, 2], data=batches, images=images, **how)


def test_two_processes_go_on_together(dense, tmp_path):
    def run(states=None):
        own = BATCHES[comm.get_rank() :: comm.get_world_size()]
        with distributed.together():
            state = states and states[comm.get_rank()]
            found = _Run(dense, state, data=own, max_flops=0.4, rounds=2)
        return found.states, _weights(found.model), found.report.notes

    one, two = in_processes(run, tmp_path / "1")
    again = in_processes(lambda: run([one[0][0], two[0][0]]), tmp_path / "2")
    for (_, before, _), (states, after, notes) in zip((one, two), again):
        assert _equal(before, after) and len(states) == 1
        assert any("went on behind round 1 of" in note for note in notes)


OTHERS = {
    "images": {"data": BATCHES[:3]},
    "options": {"max_flops": 0.35},
    "options of levels": {"levels": [0.8, 0.5]},
    "options of rounds": {"rounds": 3},
    "options of scores": {"importance": "magnitude"},
    "weights": {},
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_prune_is_not_used_and_the_log_says_why(dense, whole, other, caplog):
    state = whole.states[2]
    if other == "weights":
        with torch.no_grad():
            dense.predictor.weight.flatten()[0] += 1
    how = {**LEVELS, **OTHERS[other]}
    anew, again = _Run(dense, **how), _Run(dense, state, **how)
    assert _equal(_weights(anew.model), _weights(again.model))
    assert again.report.notes == anew.report.notes and list(again.levels) == list(anew.levels)
    words = f"(of other {other.split()[0]}): pruning anew"
    assert [words in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("removed"),
        lambda state: state.update(weights=[]),
        lambda state: state["weights"].update(first=1),
        lambda state: state["removed"].append(3),
        lambda state: state["removed"].append({"first": [-1]}),
        lambda state: state["removed"].append({"first": [1.5]}),
        lambda state: state["notes"].append(3),
        lambda state: state.update(identity={}),
        lambda state: state.update(scoring={"images": -1, "sums": []}),
    ],
)
def test_what_is_no_state_is_not_used(dense, whole, change, caplog):
    state = torch.load(io.BytesIO(whole.states[0]), weights_only=True)
    change(state)
    model = copy.deepcopy(dense)
    prune(model, chain_inputs(), data=BATCHES, round_to=1, resume=state, **LEVELS)
    assert _equal(_weights(model), _weights(whole.model))
    assert [record.message.endswith("pruning anew") for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state["removed"][0].update(first=[60]), "first has 60 channels"),
        (lambda state: state["removed"][0].update(first=[*range(60)]), "first has 60 channels"),
        (lambda state: state["removed"][0].update(third=[0]), "it has other groups"),
        (lambda state: state["removed"].__setitem__(0, {}), "it has another first.weight"),
        (lambda state: state["weights"].pop("first.weight"), "it has another first.weight"),
        (lambda state: state["weights"].update(third=torch.zeros(1)), "it has another third"),
        (
            lambda state: state["weights"].update({"first.weight": torch.zeros(1)}),
            "it has another first.weight",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_the_model_stays(dense, whole, change, words):
    state = torch.load(io.BytesIO(whole.states[0]), weights_only=True)
    change(state)
    before = remember(dense)
    with pytest.raises(ConfigError, match="does not fit the model .*: delete") as error:
        prune(dense, chain_inputs(), data=BATCHES, round_to=1, resume=state, **LEVELS)
    assert words in str(error.value) and str(error.value).isprintable()
    assert unchanged(dense, before)


def test_a_failure_after_going_on_leaves_the_model_and_the_state_as_they_were(dense, whole):
    state = torch.load(io.BytesIO(whole.states[1]), weights_only=True)
    before, kept = remember(dense), copy.deepcopy(state["weights"])

    def fail(level, report):
        with torch.no_grad():
            dense.first.weight.zero_()  # by whoever fine-tunes it, for example
        raise TargetUnreachable("no more", 0.0)

    how = {**LEVELS, "round_to": 1, "resume": state}
    with pytest.raises(TargetUnreachable):
        prune(dense, chain_inputs(), data=BATCHES, on_level=fail, **how)
    assert unchanged(dense, before) and _equal(state["weights"], kept)


def test_weights_that_layers_share_stay_shared():
    class Tied(Chain):
        def __init__(self):
            super().__init__(12, 12)
            self.third = torch.nn.Conv2d(12, 12, 3, padding=1, bias=False)
            self.again = torch.nn.Conv2d(12, 12, 3, padding=1, bias=False)
            self.again.weight = self.second.weight

        def forward(self, batched_inputs):
            x = torch.stack([each["image"] for each in batched_inputs])
            x = self.second(self.first(x).relu()).relu()
            x = self.predictor(self.third(self.again(x).relu()).relu())
            return {"loss": x.square().mean()} if self.training else x

    dense, how = Tied().eval(), {"max_flops": 0.9, "rounds": 2, "importance": "magnitude"}
    whole = _Run(dense, **how)
    again = _Run(dense, whole.states[0], **how)
    assert _equal(_weights(whole.model), _weights(again.model))
    assert again.model.again.weight is again.model.second.weight


def test_a_latency_has_no_states(dense):
    states = []
    with pytest.raises(TargetUnreachable):
        prune(
            dense, chain_inputs(), max_latency=0.001, importance="magnitude", on_round=states.append
        )
    assert states == []
