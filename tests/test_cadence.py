from hypothesis import given
from hypothesis import strategies as st

from marlcore.cadence import crossed


@given(st.integers(1, 50), st.lists(st.integers(0, 30), max_size=30))
def test_each_multiple_is_noticed_once_and_none_is_missed(every: int, strides: list[int]) -> None:
    step, noticed = 0, 0
    for stride in strides:
        noticed += crossed(every, before=step, after=step + stride)
        step += stride
    assert noticed <= step // every
    if all(stride <= every for stride in strides):
        assert noticed == step // every


def test_the_multiple_itself_belongs_to_the_step_that_reaches_it() -> None:
    assert crossed(10, before=9, after=10)
    assert not crossed(10, before=10, after=11)
