"""Items from TensorFlow Datasets, read without TensorFlow: `tfds:NAME[/CONFIG]:SPLIT`.

A run writes them as JSON lines into its work directory (`write_items`) and reads those, so that
whatever holds for a file of items holds for them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np

from rft_jax.config import TfdsConfig
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject

PREFIX = "tfds:"
_SOURCE = re.compile(r"tfds:(?P<name>[\w/.:-]+):(?P<split>[^:]+)")


def is_tfds(source: str) -> bool:
    """Whether a setting names a data set of TFDS instead of a file."""
    return source.startswith(PREFIX)


def write_items(source: str, mapping: TfdsConfig, path: Path, *, answered: bool) -> None:
    """Writes a split's examples as items, in the split's own order.

    Args:
        source: `tfds:NAME[/CONFIG]:SPLIT`, such as `tfds:gsm8k:train[:90%]`.
        mapping: How an example becomes messages and keys.
        path: The JSON lines to write.
        answered: Whether the items end with the assistant's answer, for supervised learning.

    Raises:
        InputError: Naming the source, for a data set that cannot be had or does not fit.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise InputError(f"{source}: write tfds:NAME:SPLIT or tfds:NAME/CONFIG:SPLIT")
    templates = _templates(mapping, answered, source)
    lines = []
    for number, example in enumerate(_examples(match["name"], match["split"], mapping, source), 1):
        item = {key: _plain(value) for key, value in example.items()}
        try:
            item |= _messages(item, templates)
        except jinja2.TemplateError as error:
            raise InputError(f"{source}, example {number}: {error}; correct data.tfds") from None
        lines.append(json.dumps(item, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _examples(name: str, split: str, mapping: TfdsConfig, source: str) -> Sequence[JsonObject]:
    """The split as a sequence with random access."""
    import tensorflow_datasets as tfds  # which takes a second to load

    try:
        builder = tfds.builder(name, data_dir=mapping.data_dir or None)
        builder.download_and_prepare(file_format="array_record")
        # TFDS annotates its decorator as if it took no argument.
        return builder.as_data_source(split)  # pyright: ignore[reportCallIssue]
    except Exception as error:  # the registry's, the download's or the split's own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{source}: cannot be read ({reason}); correct the name and the split, or set "
            "data.tfds.data_dir to where it has been prepared as array_record"
        ) from None


def _templates(mapping: TfdsConfig, answered: bool, source: str) -> dict[str, jinja2.Template]:
    """The mapping's templates by what they make, in the order of the messages."""
    texts = {"system": mapping.system, "user": mapping.prompt}
    if answered:
        texts["assistant"] = mapping.answer
    texts["reference"] = mapping.reference
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        return {role: environment.from_string(text) for role, text in texts.items() if text}
    except jinja2.TemplateError as error:
        raise InputError(f"{source}: data.tfds: {error}; correct the template") from None


def _messages(item: JsonObject, templates: Mapping[str, jinja2.Template]) -> JsonObject:
    """What the templates make of an item: its messages, unless it has them, and `reference`."""
    texts = {role: template.render(item) for role, template in templates.items()}
    reference = {"reference": texts.pop("reference")} if "reference" in texts else {}
    if not texts:
        return reference
    messages = [{"role": role, "content": text} for role, text in texts.items()]
    return reference | {"messages": messages}


def _plain(value: Any) -> Any:
    """A feature as a JSON value: text for bytes, lists for arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, Mapping):
        columns = {key: _plain(member) for key, member in value.items()}
        # TFDS stores a sequence of objects as an object of sequences.
        lengths = {len(v) if isinstance(v, list) else None for v in columns.values()}
        if len(lengths) == 1 and None not in lengths:
            rows = zip(*columns.values(), strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]
        return columns
    return value
