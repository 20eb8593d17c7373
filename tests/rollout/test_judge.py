"""The frozen judge: the plain forward's log-probabilities, and the verdicts of one at a server."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig
from rft_jax.graders import Tokens, build_grader, grade_texts, load_grader
from rft_jax.models import build_model
from rft_jax.parallel import make_mesh
from rft_jax.rollout import FrozenJudge
from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import MIN_VOCAB_SIZE

TEXTS = ["", "yes", "no, no", "a longer answer, of 12 words at most", "\u00e9t\u00e9 \U0001f600"]
ITEMS = [{"wanted": f"{n} " * n} for n in range(len(TEXTS))]
LABEL = {
    "type": "label_model",
    "model": "device:judge",
    "input": [{"role": "user", "content": "Is it {{item.wanted}}?\n{{sample.output_text}}\nSay."}],
    "labels": ["yes", "no"],
    "passing_labels": ["yes"],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer(train_sentencepiece(TEXTS[1:4], path, MIN_VOCAB_SIZE))


@pytest.fixture(scope="module")
def judge_of(tokenizer):
    config = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=24,
        compute_dtype="float32",
    )
    model = build_model(config, tokenizer.vocab_size)
    # Large enough for opinions.
    weights = jax.tree.map(lambda x: x * 6 if x.ndim > 2 else x, model.init(jax.random.key(1)))

    def make(mesh=(1, 1, 1), **settings):
        mesh = make_mesh(MeshConfig(*mesh), jax.devices()[: int(np.prod(mesh))])
        return FrozenJudge(model, tokenizer, mesh, lambda: weights, **settings)

    return make


@pytest.fixture(scope="module")
def plain(judge_of):
    """Log-probabilities of the token after a list of ids, by the forward over whole rows."""
    judge = judge_of()
    model, params = judge.model, judge.params

    @jax.jit
    def forward(ids_1T, last):
        positions_1T = jnp.arange(ids_1T.shape[1])[None]
        segments_1T = (positions_1T <= last).astype(jnp.int32)
        hidden_1TD = model.hidden(params, ids_1T, positions_1T, segments_1T)
        return jax.nn.log_softmax(model.logits(params, hidden_1TD[0, last]))

    def after(ids, width=128):
        padded = np.zeros((1, width), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(forward(padded, len(ids) - 1))

    return after


@pytest.mark.parametrize(
    ("mesh", "at_once"), [((1, 1, 1), 8192), ((1, 1, 1), 32), ((2, 2, 2), 8192), ((4, 1, 2), 16)]
)
def test_log_probabilities_are_the_plain_forward_s(judge_of, plain, mesh, at_once):
    rng = np.random.default_rng(0)
    count, width, asked = 7, 16, (9, 3, 40)
    lengths = rng.integers(1, width + 1, count).astype(np.int32)
    ids = rng.integers(0, 60, (count, width)).astype(np.int32)
    judge = judge_of(mesh, tokens_at_once=at_once)

    @jax.jit
    def ask(params, prompts):
        return judge.next_logprobs(params, prompts, asked)

    found = ask(judge.params, Tokens(ids, lengths))
    expected = [plain(row[:n])[list(asked)] for row, n in zip(ids, lengths, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_it_agrees_with_the_same_model_at_a_server(serve, judge_of, plain):
    """The server renders the prompt as text, and takes the likelier of the two labels."""
    judge = judge_of()
    tokenizer = judge.tokenizer
    yes, no = ((*tokenizer.encode_completion(label, None),) for label in LABEL["labels"])
    shares = []

    def reply(number, body):
        ids = [*tokenizer.encode_prompt(body["messages"]), yes[0]]
        logprobs = plain(ids)
        shares.append(jax.nn.softmax(logprobs[[yes[1], no[1]]])[0])
        result = json.dumps({"steps": [], "result": "yes" if shares[-1] > 0.5 else "no"})
        message = {"role": "assistant", "content": result}
        answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return 200, {}, json.dumps(answer).encode()

    assert yes[0] == no[0] == tokenizer.end_of_think_id
    on_host = build_grader(load_grader(LABEL | {"model": "m", "base_url": serve(reply).url}))
    on_device = build_grader(load_grader(LABEL)).open_judges(lambda path: judge)
    host = grade_texts(on_host, TEXTS, ITEMS)
    device = grade_texts(on_device, TEXTS, ITEMS)
    assert host.valid.all() and device.valid.all()
    assert 0 < host.reward.mean() < 1
    np.testing.assert_array_equal(device.reward > 0.5, host.reward == 1)
    np.testing.assert_allclose(np.sort(device.reward), np.sort(shares), rtol=1e-4)


RANGE = (-3.5, 12)
SCORE = {
    "type": "score_model",
    "model": "device:judge",
    "input": [{"role": "user", "content": "{{item.wanted}}\n{{sample.output_text}}"}],
    "range": RANGE,
}
ALIKE = LABEL | {"labels": ["yes", "yes, but", "no \U0001f600"]}


@pytest.mark.parametrize("mesh", [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", [SCORE, ALIKE])
def test_what_it_writes_is_a_verdict(judge_of, spec, mesh):
    """A model of random weights: nothing but the grammar makes it write JSON."""
    judge = judge_of(mesh, tokens_at_once=300)
    grader = build_grader(load_grader(spec)).open_judges(lambda path: judge)
    written = grader.spec.written
    rng = np.random.default_rng(0)
    prompts = Tokens(rng.integers(3, 60, (5, 8), np.int32), np.arange(4, 9, dtype=np.int32))
    write = jax.jit(judge.write, static_argnums=3)
    said = jax.device_get(write(judge.params, prompts, written.grammar, written.tokens))
    texts = [judge.tokenizer.decode(ids[:n].tolist()) for ids, n in zip(*said, strict=True)]
    for text in texts:
        (result,) = json.loads(text).values()
        assert result in ALIKE["labels"] if spec is ALIKE else RANGE[0] <= result <= RANGE[1]
    grade = grade_texts(grader, TEXTS, ITEMS)
    assert grade.valid.all()
    alone = grade_texts(build_grader(load_grader(spec)).open_judges(lambda path: judge_of()),
                        TEXTS, ITEMS)  # fmt: skip
    np.testing.assert_allclose(grade.reward, alone.reward, rtol=1e-5)
