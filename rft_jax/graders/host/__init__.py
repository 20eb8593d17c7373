"""Graders that run on the host: `python` in sandboxed workers, `endpoint` and judges over HTTP.

    with grader.open(HostOptions(workers=4)) as session:  # of config
        scores = session.grade_batch(samples, items, rows)

`sandbox` isolates a process by means of the kernel, `worker` is the program that runs inside,
`pool` keeps several of them warm; `client` posts JSON with retries, `judge` asks a model. One file
for each grader type: `python`, `endpoint`, `score_model`, `label_model`.
"""

from rft_jax.graders.host.endpoint import Endpoint as Endpoint
from rft_jax.graders.host.label_model import LabelModel as LabelModel
from rft_jax.graders.host.python import PythonGrader as PythonGrader
from rft_jax.graders.host.score_model import ScoreModel as ScoreModel
