"""Which checkpoints stay: the newest, every nth, the best, and the final one."""

from hypothesis import given
from hypothesis import strategies as st

from pangu_core.checkpoint.retention import Candidate, Rules, superfluous

losses = st.none() | st.sampled_from([1.0, 2.0, 3.0])
candidates = st.lists(
    st.builds(Candidate, st.just("x"), st.integers(0, 60), st.booleans(), losses),
    max_size=12,
    unique_by=lambda c: c.step,
)
rules = st.builds(
    Rules, st.integers(0, 5), st.none() | st.integers(1, 20), keep_best=st.integers(0, 4)
)


def kept(found, rules):
    gone = superfluous(found, rules)
    assert set(gone) <= set(found)
    return [c for c in sorted(found, key=lambda c: -c.step) if c not in gone]


def measured(found):
    return [c for c in found if c.validation_loss is not None]


@given(candidates, rules)
def test_every_rule_is_kept(found, rules):
    stay, newest_first = kept(found, rules), sorted(found, key=lambda c: -c.step)
    assert stay[: rules.keep] == newest_first[: rules.keep]
    assert all(c in stay for c in found if c.final)
    assert all(c in stay for c in found if rules.keep_every and not c.step % rules.keep_every)
    best = sorted(c.validation_loss for c in measured(found))[: rules.keep_best]
    assert sorted(c.validation_loss for c in measured(stay))[: rules.keep_best] == best


@given(candidates, rules)
def test_the_newest_stays_whatever_the_rules(found, rules):
    assert kept(found, rules)[:1] == sorted(found, key=lambda c: -c.step)[:1]


@given(candidates, st.integers(0, 5), st.integers(0, 4))
def test_no_more_stay_than_the_rules_want(found, keep, keep_best):
    stay = [c for c in kept(found, Rules(keep, keep_best=keep_best)) if not c.final]
    assert len(stay) <= max(keep, 1) + keep_best


@given(candidates, rules)
def test_deciding_again_removes_nothing_more(found, rules):
    stay = kept(found, rules)
    assert kept(stay, rules) == stay


def test_the_best_of_one_evaluation_is_the_checkpoint_closest_to_it():
    found = [Candidate("x", step, validation_loss=2.0) for step in (100, 110, 120, 130)]
    stay = kept([*found, Candidate("x", 140)], Rules(1, keep_best=1))
    assert [c.step for c in stay] == [140, 100]


def test_what_was_never_evaluated_is_never_best():
    found = [Candidate("x", 10), Candidate("x", 20, validation_loss=9.0), Candidate("x", 30)]
    assert [c.step for c in kept(found, Rules(1, keep_best=3))] == [30, 20]
