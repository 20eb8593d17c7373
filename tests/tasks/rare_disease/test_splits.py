"""No publication, patient or gene is on both sides of a split."""

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.tasks.rare_disease import splits
from rft_jax.tasks.rare_disease.phenopackets import Case, load_cases
from rft_jax.utils.errors import InputError

PUBLIC_ARCHIVE = Path(__file__).parents[4] / "shared/data/phenopackets_public.zip"


def make_case(number, gene="G", pmids=("PMID:1",), variant="", sex="", age=None, present=True):
    return Case(
        case_id=f"case {number}",
        pmids=tuple(pmids),
        genes=(gene,),
        gene_ids=("",),
        variants=(variant,) if variant else (),
        sex=sex,
        age_years=age,
        age_note="",
        present=(("HP:1", "a"),) if present else (),
        absent=(),
    )


@st.composite
def archives(draw):
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 15).map("G{}".format),
                st.lists(st.integers(1, 25).map("PMID:{}".format), max_size=2, unique=True),
                st.sampled_from(["", "c.1A>T", "c.2C>G"]),
                st.sampled_from(["", "male", "female"]),
                st.sampled_from([None, 1.0, 2.0]),
                st.booleans(),
            ),
            max_size=60,
        )
    )
    return [make_case(number, *row) for number, row in enumerate(rows)]


def brute_force_clusters(cases):
    """Merges sets until nothing changes: slow, and plainly right."""
    keys = []
    for case in cases:
        own = {case.case_id, *case.pmids}
        if case.variants and case.sex and case.age_years is not None:
            own.add((case.genes, case.variants, case.sex, case.age_years))
        keys.append(own)
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(keys):
            for b in keys[:i]:
                if a & b and a != b:
                    a |= b
                    b |= a
                    changed = True
    return keys


@given(archives())
def test_clusters_equal_those_found_by_brute_force(cases):
    numbers = splits.publication_clusters(cases)
    keys = brute_force_clusters(cases)
    for i in range(len(cases)):
        for j in range(i):
            assert (numbers[i] == numbers[j]) == bool(keys[i] & keys[j])


@settings(max_examples=200)
@given(archives(), st.integers(0, 3), st.sets(st.integers(1, 25).map("PMID:{}".format)))
def test_nothing_is_on_both_sides(cases, seed, exclude):
    try:
        split = splits.split(cases, 20, 10, frozenset(exclude), seed)
    except InputError:
        return
    train, valid = split.train, split.valid
    assert 0 < len(train) <= 20
    assert 0 < len(valid) <= 10
    assert all(case.scorable for case in train + valid)
    cluster = dict(zip((c.case_id for c in cases), splits.publication_clusters(cases), strict=True))
    of_train = {cluster[c.case_id] for c in train}
    of_valid = {cluster[c.case_id] for c in valid}
    assert not of_train & of_valid
    assert not {c.gene for c in train} & {c.gene for c in valid}
    assert not {p for c in train for p in c.pmids} & split.held_out_pmids
    assert {p for c in (*valid, *split.seen) for p in c.pmids} <= split.held_out_pmids
    of_seen = {cluster[c.case_id] for c in split.seen}
    assert not of_seen & (of_train | of_valid)
    assert {c.gene for c in split.seen} <= {c.gene for c in train}
    excluded = {cluster[c.case_id] for c in cases if set(c.pmids) & exclude}
    assert not excluded & (of_train | of_valid | of_seen)


@given(archives(), st.integers(0, 3))
def test_caps_hold_and_nothing_more_would_fit(cases, seed):
    cases = [case for case in cases if case.scorable]
    chosen = splits.capped(cases, per_publication=2, per_gene=3, seed=seed)
    publications = Counter(p for c in chosen for p in c.pmids)
    genes = Counter(c.gene for c in chosen)
    assert not publications or max(publications.values()) <= 2
    assert not genes or max(genes.values()) <= 3
    for case in set(cases) - set(chosen):
        assert genes[case.gene] == 3 or any(publications[p] == 2 for p in case.pmids)


@given(archives(), st.randoms(use_true_random=False))
def test_the_split_depends_on_the_seed_and_not_on_the_files_order(cases, rng):
    other = rng.sample(cases, len(cases))
    try:
        expected = splits.split(cases, 20, 10)
    except InputError:
        return
    assert splits.split(other, 20, 10) == expected


def test_another_seed_draws_other_cases():
    cases = [make_case(n, f"G{n}", [f"PMID:{n}"]) for n in range(1, 60)]
    assert splits.split(cases, 20, 10, seed=0) != splits.split(cases, 20, 10, seed=1)


def test_a_patient_reported_twice_joins_two_publications():
    first = make_case(1, "G", ["PMID:1"], "c.1A>T", "male", 3.5)
    second = make_case(2, "G", ["PMID:2"], "c.1A>T", "male", 3.5)
    one, two = splits.publication_clusters([first, second])
    assert one == two
    for change in ({"age_years": 4.0}, {"age_years": None}, {"sex": ""}, {"variants": ()}):
        one, two = splits.publication_clusters([first, dataclasses.replace(second, **change)])
        assert one != two


def test_too_few_cases_are_refused():
    with pytest.raises(InputError, match="leave 0 for training and 1 for validation"):
        splits.split([make_case(1)], 10, 10)


@pytest.mark.slow
@pytest.mark.skipif(not PUBLIC_ARCHIVE.exists(), reason="needs ../shared")
def test_the_public_archive_gives_a_full_split():
    cases = load_cases(PUBLIC_ARCHIVE)
    random.Random(0).shuffle(cases)
    split = splits.split(cases, 1100, 200)
    assert (len(split.train), len(split.valid)) == (1100, 200)
    assert not {c.gene for c in split.train} & {c.gene for c in split.valid}
    # The protocol's own count is 1,578; the greedy draw depends on its order.
    assert 1500 < len(splits.capped([c for c in cases if c.scorable])) < 1650
