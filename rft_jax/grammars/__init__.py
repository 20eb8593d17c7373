"""Grammars of answers: JSON schemas and regular expressions as tables over a tokenizer's tokens.

    tables = open_grammar({"type": "json_schema", "json_schema": {...}}, tokenizer)

`response_format` reads OpenAI's format, `json_schema` schemas, with `numbers` and `json_strings`;
`any_json` is any object, `characters` are regular expressions; `byte_automaton` makes minimal
automata of them, `token_walk` and `token_tables` arrays for `rollout.logit_masks`; `grammar` keeps
those on disk.
"""

from rft_jax.grammars.errors import ResponseFormatError as ResponseFormatError
from rft_jax.grammars.grammar import grammar_of as grammar_of
from rft_jax.grammars.grammar import open_grammar as open_grammar
from rft_jax.grammars.response_format import ResponseFormat as ResponseFormat
from rft_jax.grammars.response_format import load_response_format as load_response_format
from rft_jax.grammars.response_format import read_response_format as read_response_format
from rft_jax.grammars.token_tables import FREE as FREE
from rft_jax.grammars.token_tables import WORD as WORD
from rft_jax.grammars.token_tables import CounterTables as CounterTables
from rft_jax.grammars.token_tables import GrammarTables as GrammarTables
from rft_jax.grammars.token_tables import Vocabulary as Vocabulary
from rft_jax.grammars.token_tables import build_tables as build_tables
from rft_jax.grammars.token_tables import table_bytes as table_bytes
