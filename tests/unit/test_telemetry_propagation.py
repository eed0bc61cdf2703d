"""The stored trace context: what is read, what is ignored, what is written back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span

from headrace.telemetry import propagation

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


def test_parse_reads_ids_and_flags_when_the_traceparent_is_sound() -> None:
    """A sound traceparent gives back its ids and whether it is sampled, and is written back as it was."""
    context = propagation.parse(SAMPLED)

    assert context is not None
    assert context.is_remote
    assert propagation.traceparent_of(context) == SAMPLED
    assert propagation.trace_id_of(SAMPLED) == TRACE
    assert propagation.is_sampled(SAMPLED)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 600,
    ],
)
def test_everything_ignores_a_traceparent_when_it_is_malformed(traceparent: str | None) -> None:
    """A malformed traceparent is treated as absent by every reader."""
    assert propagation.parse(traceparent) is None
    assert propagation.link_to(traceparent) is None
    assert propagation.trace_id_of(traceparent) == ""
    assert not propagation.is_sampled(traceparent)
    assert not get_current_span(propagation.context_of(traceparent)).get_span_context().is_valid


def test_parse_reads_the_known_part_when_the_version_is_newer() -> None:
    """A later version may carry more behind the four fields that are known."""
    context = propagation.parse(f"01-{TRACE}-{SPAN}-01-more")

    assert context is not None
    assert f"{context.trace_id:032x}" == TRACE


def test_context_of_makes_the_named_span_the_parent_when_it_is_sound() -> None:
    """A span started below the returned context would be a child of the stored one."""
    context = propagation.context_of(SAMPLED)

    assert f"{get_current_span(context).get_span_context().span_id:016x}" == SPAN


def test_current_traceparent_is_a_new_unsampled_root_when_there_is_no_span() -> None:
    """Outside any span every call gives usable ids of its own, and nobody is told to record them."""
    first, second = propagation.current_traceparent(), propagation.current_traceparent()

    assert first != second
    assert propagation.trace_id_of(first)
    assert not propagation.is_sampled(first)
    assert propagation.trace_id_now() == ""


@given(st.text(max_size=80))
def test_parse_never_raises_whatever_it_is_given(text: str) -> None:
    """A stranger's header never fails a request."""
    propagation.parse(text)
    propagation.link_to(text)
