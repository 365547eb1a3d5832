"""Seeds depend on labels only, and on no machine."""

from hypothesis import given
from hypothesis import strategies as st

from hydrahead.core.seeds import derive_seed, generator, numpy_generator

labels = st.lists(st.one_of(st.text(max_size=5), st.integers(-3, 3)), max_size=3)


def test_known_values_never_change() -> None:
    assert derive_seed(0, "probe", 17) == 6537463846737185557
    assert generator(0, "a").randrange(10**9) == 632180193
    assert int(numpy_generator(0, "a").integers(10**9)) == 303138847


@given(st.integers(), labels, labels)
def test_different_labels_give_different_seeds(seed: int, one: list, other: list) -> None:
    assert (derive_seed(seed, *one) == derive_seed(seed, *other)) == (one == other)


@given(st.integers(), labels)
def test_seeds_fit_63_bits(seed: int, one: list) -> None:
    assert 0 <= derive_seed(seed, *one) < 2**63
