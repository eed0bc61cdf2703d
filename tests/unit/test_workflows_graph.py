"""A workflow is a graph without a circle, and says which field is wrong where it is not."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.diagnostics import echo
from headrace.errors import InvalidInputError
from headrace.jobs.graph import MOST_LINKS, MOST_STEPS, require_graph
from headrace.jobs.parents import Needs
from headrace.jobs.workflow import Workflow, chain, followed_by


def wrong_fields(after: dict[str, list[str]]) -> list[str]:
    """Return the fields for which a graph is refused."""
    try:
        require_graph(after)
    except InvalidInputError as error:
        return [one.field for one in error.errors]
    return []


@given(st.lists(st.sets(st.integers(0, 20)), max_size=20), st.randoms(use_true_random=False))
def test_graph_is_accepted_when_every_parent_stands_before_its_children(
    parents: list[set[int]], chance: Random
) -> None:
    """Whatever the order in which the jobs are named."""
    after = {f"j{place}": [f"j{one}" for one in found if one < place] for place, found in enumerate(parents)}
    names = list(after) or ["alone"]
    chance.shuffle(names)

    assert wrong_fields({name: after.get(name, []) for name in names}) == []


@given(st.integers(2, 30), st.integers(0, 5))
def test_graph_is_refused_when_it_has_a_circle(length: int, tail: int) -> None:
    """Each job of the circle is named, and none of those that only hang on it."""
    circle = {f"c{place}": [f"c{(place + 1) % length}"] for place in range(length)}
    hanging = {f"t{place}": [f"t{place - 1}" if place else "c0"] for place in range(tail)}

    assert sorted(wrong_fields(hanging | circle)) == sorted(f"jobs.{name}.after" for name in circle)


@pytest.mark.parametrize(
    ("after", "fields"),
    [
        ({}, ["jobs"]),
        ({"a": ["a"]}, ["jobs.a.after"]),
        ({"a": ["b"]}, ["jobs.a.after"]),
        ({"a": [], "b": ["a", "a"]}, ["jobs.b.after"]),
        ({"a.b": []}, ["jobs.a.b"]),
        ({"": []}, ["jobs."]),
        ({"é": []}, ["jobs.é"]),
        ({"a\n": []}, ["jobs.a\n"]),
        ({"x" * 100: []}, []),
        ({"x" * 101: []}, ["jobs." + "x" * 100]),
        ({f"j{number}": [] for number in range(MOST_STEPS)}, []),
        ({f"j{number}": [] for number in range(MOST_STEPS + 1)}, ["jobs"]),
        ({"a": [], "b": ["a"] * (MOST_LINKS + 1)}, ["jobs", "jobs.b.after"]),
    ],
)
def test_graph_is_refused_when_a_name_or_the_size_is_wrong(after: dict[str, list[str]], fields: list[str]) -> None:
    """Each thing that is wrong has its field."""
    assert wrong_fields(after) == fields


def test_errors_are_bounded_when_everything_is_wrong() -> None:
    """A hundred tell enough."""
    assert len(wrong_fields({f"j{number}": ["nobody"] for number in range(1000)})) == 100


def test_long_chain_is_accepted() -> None:
    """Depth costs no recursion."""
    assert wrong_fields({f"j{n}": [f"j{n - 1}"] if n else [] for n in range(MOST_STEPS)}) == []


def test_name_is_refused_when_it_is_taken() -> None:
    """A second job of a name is a mistake and not a replacement."""
    with pytest.raises(InvalidInputError, match="taken"):
        Workflow().add("a", echo.call(1)).add("a", echo.call(2))


def test_chain_links_each_job_to_the_one_before() -> None:
    """They are called by their places."""
    linked = chain(echo.call(1), echo.call(2), echo.call(3)).linked()

    assert list(linked.ids) == ["1", "2", "3"]
    assert [(link.child, link.parent, link.name) for link in linked.links] == [
        (linked.ids["2"], linked.ids["1"], "1"),
        (linked.ids["3"], linked.ids["2"], "2"),
    ]
    assert [call.parent_id for call in linked.calls] == [None, linked.ids["1"], linked.ids["2"]]


def test_parent_may_be_named_alone() -> None:
    """`after="first"` means that one job, not five letters."""
    linked = Workflow().add("first", echo.call(1)).add("second", echo.call(2), after="first").linked()

    assert [link.name for link in linked.links] == ["first"]


def test_ids_rise_in_the_order_of_the_workflow() -> None:
    """So that parents are listed as they were given."""
    linked = followed_by([echo.call(number) for number in range(100)], echo.call(0))

    ids = list(linked.ids.values())
    assert ids == sorted(ids)
    assert (linked.needs, len(linked.links)) == (Needs.FINISHED, 100)


def test_batch_is_refused_when_it_is_too_large() -> None:
    """As over HTTP."""
    with pytest.raises(InvalidInputError, match="10000"):
        followed_by([echo.call(0)] * (MOST_STEPS + 1), echo.call(0))
