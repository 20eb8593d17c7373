"""Graders: a JSON specification in OpenAI's format -> a pure jnp function of samples and items.

    grader = build_grader(load_grader("grader.json"))
    fields = grader.encode_items(items, "train.jsonl")      # host, once
    grade = grader.grade(sample, fields)                    # device, inside of the jitted step
    grade = grade_texts(grader, ["answer"], [item])         # a notebook

`registry.CLASSES` has the types: one file each, whose docstring begins with the JSON that it takes;
a new one is a file with such a dataclass (`protocols.GraderType`) and a line there. `function`
makes a grader of a jnp function; `placement` says what runs on the host, as those in `host` do.
"""

from rft_jax.graders.device_judge import JudgeModel as JudgeModel
from rft_jax.graders.function import device_grader as device_grader
from rft_jax.graders.grader import Grader as Grader
from rft_jax.graders.grader import build_grader as build_grader
from rft_jax.graders.grader import grade_encoded as grade_encoded
from rft_jax.graders.grader import grade_samples as grade_samples
from rft_jax.graders.grader import grade_texts as grade_texts
from rft_jax.graders.placement import HostGrading as HostGrading
from rft_jax.graders.placement import explain as explain
from rft_jax.graders.protocols import GraderType as GraderType
from rft_jax.graders.protocols import HostGraderType as HostGraderType
from rft_jax.graders.registry import grader_file as grader_file
from rft_jax.graders.registry import load_grader as load_grader
from rft_jax.graders.registry import load_pass_threshold as load_pass_threshold
from rft_jax.graders.types import ANSWER as ANSWER
from rft_jax.graders.types import ERRORS as ERRORS
from rft_jax.graders.types import Grade as Grade
from rft_jax.graders.types import HostSample as HostSample
from rft_jax.graders.types import Items as Items
from rft_jax.graders.types import Sample as Sample
from rft_jax.graders.types import Score as Score
from rft_jax.graders.types import Tokens as Tokens
