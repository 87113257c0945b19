"""The rank distributions are exact, and the order statistics are the ones they belong to."""

from itertools import combinations, pairwise, product
from math import comb
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.judging import ranks

values = st.lists(st.floats(-100, 100), min_size=1, max_size=8)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 4), (2, 3), (3, 3), (4, 3), (5, 4), (6, 6)])
def test_the_rank_sum_distribution_counts_every_arrangement(first, second):
    """The Mann-Whitney distribution equals the share of arrangements, counted one by one."""
    places = range(first + second)
    counts = [0] * (first * second + 1)
    for chosen in combinations(places, second):
        others = [place for place in places if place not in chosen]
        counts[sum(below < above for below in others for above in chosen)] += 1
    total = comb(first + second, second)
    expected = [sum(counts[: u + 1]) / total for u in range(len(counts))]
    assert list(ranks.rank_sum_distribution(first, second)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("pairs", [1, 2, 3, 5, 8, 10])
def test_the_signed_rank_distribution_counts_every_choice_of_signs(pairs):
    """Wilcoxon's distribution equals the share of sign patterns, counted one by one."""
    counts = [0] * (pairs * (pairs + 1) // 2 + 1)
    for signs in product((0, 1), repeat=pairs):
        counts[sum(rank for rank, sign in enumerate(signs, 1) if sign)] += 1
    expected = [sum(counts[: t + 1]) / 2**pairs for t in range(len(counts))]
    assert list(ranks.signed_rank_distribution(pairs)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_the_sign_distribution_is_binomial(count):
    """The number of values below the median is that of heads in fair tosses."""
    counts = [0] * (count + 1)
    for tosses in product((0, 1), repeat=count):
        counts[sum(tosses)] += 1
    assert ranks.sign_distribution(count)[-1] == 1
    assert ranks.sign_distribution(count)[0] == counts[0] / 2**count


@pytest.mark.parametrize(
    ("first", "second", "level", "expected"),
    [
        (10, 10, 0.025, 23),
        (8, 8, 0.025, 13),
        (6, 6, 0.005, 2),
        (20, 16, 0.025, 98),
        (3, 3, 0.05, 0),
        (3, 3, 0.04, None),
    ],
)
def test_critical_values_of_the_rank_sum_are_the_published_ones(first, second, level, expected):
    """The critical values agree with the tables of Mann and Whitney's test."""
    assert ranks.critical(ranks.rank_sum_distribution(first, second), level) == expected


@pytest.mark.parametrize(
    ("pairs", "level", "expected"), [(6, 0.025, 0), (10, 0.025, 8), (16, 0.005, 19), (5, 0.025, None)]
)
def test_critical_values_of_the_signed_rank_are_the_published_ones(pairs, level, expected):
    """The critical values agree with the tables of Wilcoxon's test."""
    assert ranks.critical(ranks.signed_rank_distribution(pairs), level) == expected


@given(st.integers(1, 12), st.integers(1, 12), st.floats(1e-6, 0.5))
def test_a_critical_value_is_the_largest_within_its_level(first, second, level):
    """The critical value keeps the level, and the next one would not."""
    distribution = ranks.rank_sum_distribution(first, second)
    found = ranks.critical(distribution, level)
    if found is None:
        assert distribution[0] > level
    else:
        assert distribution[found] <= level < distribution[found + 1]


@given(st.integers(1, 20), st.integers(1, 20))
def test_the_rank_sum_distribution_does_not_care_which_arm_is_first(first, second):
    """Both orders of the arms have one distribution, which rises to one."""
    distribution = ranks.rank_sum_distribution(first, second)
    assert distribution == ranks.rank_sum_distribution(second, first)
    assert all(low < high for low, high in pairwise(distribution))
    assert distribution[-1] == 1


@given(values, values)
def test_differences_are_all_pairs_in_order(first, second):
    """Every value of one arm is compared with every value of the other."""
    assert ranks.differences(first, second) == sorted(y - x for x, y in product(first, second))


@given(values)
def test_walsh_averages_are_centred_between_the_extremes(sample):
    """There are n(n+1)/2 averages, and the extremes are among them."""
    averages = ranks.walsh_averages(sample)
    assert len(averages) == len(sample) * (len(sample) + 1) // 2
    assert averages[0] == min(sample)
    assert averages[-1] == max(sample)


@given(values)
def test_the_middle_is_the_median(sample):
    """The middle of sorted values is their median."""
    assert ranks.middle(sorted(sample)) == median(sample)
