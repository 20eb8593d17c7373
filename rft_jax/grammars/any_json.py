"""Any JSON object, as an automaton over bytes: what `{"type": "json_object"}` asks for.

Values are spelled as those of schemas are (`json_schema`). Which brackets are open is a matter of
states, twice as many with each level, so there is a deepest one. Keys may come twice, as in JSON.
"""

from __future__ import annotations

from rft_jax.grammars.byte_automaton import ByteAutomaton, Graph, build
from rft_jax.grammars.json_strings import write_content
from rft_jax.grammars.numbers import Range, write_number

DEPTH = 5  # objects and arrays in each other, with the object itself


def object_automaton(separator: str = "") -> ByteAutomaton:
    """All objects, of at most `DEPTH` levels.

    Args:
        separator: What may stand in front of one.
    """
    graph = Graph()
    entry = _write_object(graph, DEPTH, graph.accept)
    automaton = build(graph, graph.optionally(separator.encode(), entry))
    assert automaton is not None, "there are objects"
    return automaton


def _write_object(graph: Graph, levels: int, follow: int) -> int:
    after = graph.node(graph.literal(b"}", follow))
    value = graph.literal(b": ", _write_value(graph, levels - 1, after))
    key = graph.literal(b'"', write_content(graph, None, value))
    graph.free[after] += (graph.literal(b", ", key),)
    return graph.literal(b"{", graph.node(graph.literal(b"}", follow), key))


def _write_array(graph: Graph, levels: int, follow: int) -> int:
    after = graph.node(graph.literal(b"]", follow))
    value = _write_value(graph, levels - 1, after)
    graph.free[after] += (graph.literal(b", ", value),)
    return graph.literal(b"[", graph.node(graph.literal(b"]", follow), value))


def _write_value(graph: Graph, levels: int, follow: int) -> int:
    """Any value within so many more levels, then `follow`."""
    entries = [graph.literal(text, follow) for text in (b"true", b"false", b"null")]
    entries.append(graph.literal(b'"', write_content(graph, None, follow)))
    entries.append(write_number(graph, Range(), integer=False, follow=follow))
    if levels:
        entries += [write(graph, levels, follow) for write in (_write_object, _write_array)]
    return graph.node(*entries)
