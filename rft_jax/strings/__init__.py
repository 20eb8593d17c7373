"""Strings on the device: UTF-8 texts as arrays, searched, folded, parsed and compared in pure jnp.

    text = from_host(["Größe", "größe"], max_bytes=16)
    equal(case_fold(text), case_fold(other))

`byte_string` has the types and what works on bytes, `unicode` code points and case folding,
`json_scan` and `json_values` a JSON parser, `json_tree` and `json_numbers` more of JSON,
`string_list` lists of names, `numbers` numbers in free text, `edit_distance` and `ngrams` how alike
texts are. It knows nothing of models or rewards and can be used alone.
"""

from rft_jax.strings.byte_string import ByteString as ByteString
from rft_jax.strings.byte_string import CodePoints as CodePoints
from rft_jax.strings.byte_string import compress as compress
from rft_jax.strings.byte_string import concat as concat
from rft_jax.strings.byte_string import contains as contains
from rft_jax.strings.byte_string import drop_leading as drop_leading
from rft_jax.strings.byte_string import equal as equal
from rft_jax.strings.byte_string import from_host as from_host
from rft_jax.strings.byte_string import occurrences as occurrences
from rft_jax.strings.byte_string import slice_bytes as slice_bytes
from rft_jax.strings.byte_string import to_host as to_host
from rft_jax.strings.edit_distance import indel_similarity as indel_similarity
from rft_jax.strings.edit_distance import lcs_length as lcs_length
from rft_jax.strings.json_scan import MAX_DEPTH as MAX_DEPTH
from rft_jax.strings.json_scan import JsonScan as JsonScan
from rft_jax.strings.json_scan import JsonToken as JsonToken
from rft_jax.strings.json_scan import scan_json as scan_json
from rft_jax.strings.json_values import JsonValue as JsonValue
from rft_jax.strings.json_values import Unescaped as Unescaped
from rft_jax.strings.json_values import find as find
from rft_jax.strings.json_values import render as render
from rft_jax.strings.json_values import strings_of as strings_of
from rft_jax.strings.json_values import unescape as unescape
from rft_jax.strings.ngrams import Words as Words
from rft_jax.strings.ngrams import distinct_ngrams as distinct_ngrams
from rft_jax.strings.ngrams import lcs_words as lcs_words
from rft_jax.strings.ngrams import ngram_matches as ngram_matches
from rft_jax.strings.ngrams import split_alphanumeric as split_alphanumeric
from rft_jax.strings.ngrams import split_words as split_words
from rft_jax.strings.string_list import PointList as PointList
from rft_jax.strings.string_list import StringList as StringList
from rft_jax.strings.string_list import equal_pairs as equal_pairs
from rft_jax.strings.string_list import first_occurrences as first_occurrences
from rft_jax.strings.string_list import list_from_host as list_from_host
from rft_jax.strings.string_list import normalize as normalize
from rft_jax.strings.string_list import normalize_text as normalize_text
from rft_jax.strings.unicode import UNICODE_VERSION as UNICODE_VERSION
from rft_jax.strings.unicode import case_fold as case_fold
from rft_jax.strings.unicode import decode as decode
from rft_jax.strings.unicode import fold_text as fold_text
from rft_jax.strings.unicode import trim as trim
