"""Items from JSON lines, their token arrays, and batches as a pure function of the data cursor.

items = load_items("train.jsonl")
prompts = encode_prompts(items, tokenizer, max_tokens=256, source="train.jsonl")
batch = batch_at(len(items), batch_size=8, cursor=0, seed=0)
tokens_BP = prompts.tokens_MP[batch.indices_B]
"""

from rft_jax.data.batching import IndexBatch as IndexBatch
from rft_jax.data.batching import batch_at as batch_at
from rft_jax.data.demonstrations import load_demonstrations as load_demonstrations
from rft_jax.data.demonstrations import with_demonstrations as with_demonstrations
from rft_jax.data.demonstrations import without_answers as without_answers
from rft_jax.data.items import check_disjoint as check_disjoint
from rft_jax.data.items import check_keys as check_keys
from rft_jax.data.items import check_prompt as check_prompt
from rft_jax.data.items import load_answers as load_answers
from rft_jax.data.items import load_items as load_items
from rft_jax.data.items import load_lines as load_lines
from rft_jax.data.items import load_rows as load_rows
from rft_jax.data.items import load_supervised_items as load_supervised_items
from rft_jax.data.items import output_text as output_text
from rft_jax.data.items import suspicions as suspicions
from rft_jax.data.prompts import PromptRows as PromptRows
from rft_jax.data.prompts import bucket as bucket
from rft_jax.data.prompts import encode_prompts as encode_prompts
from rft_jax.data.sft_packing import Packed as Packed
from rft_jax.data.sft_packing import pack_supervised as pack_supervised
from rft_jax.data.tfds_items import is_tfds as is_tfds
from rft_jax.data.tfds_items import write_items as write_items
