"""What a backend is asked of a document, and what is read from its answers: no engine, no server."""

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from tiny_models import tiny_model, tiny_tokenizer

from eval.cost.benchmark.hf_backend import TransformersModel
from eval.cost.benchmark.served_backend import ServedAnswerer, ServedBackend
from eval.cost.benchmark.tasks import BenchmarkError
from eval.cost.benchmark.token_model import TokenModel
from eval.endpoints.served_models import ServedModels, ServersError
from surgery.model.models import ModelInfo
from vllm_refusal.engine.distributions import TextScores

LENGTH = 12


class Answerer:
    """Token t has the log probability -t and is the best one when even; every prompt is continued by its own length."""

    max_length = LENGTH

    def __init__(self):
        self.asked = []

    def score(self, texts):
        self.asked += texts
        found = [np.asarray(text[1:]) for text in texts]
        return [TextScores(-tokens.astype(np.float64), tokens % 2 == 0) for tokens in found]

    def answer(self, prompts, sampling):
        self.asked.append((prompts, sampling))
        return [f"{len(prompt)} tokens\nand more" for prompt in prompts]


def generation(context, **settings):
    return Instance("generate_until", {}, (context, {"until": ["\n"], **settings}), 0)


def words(n_tokens):
    return " ".join(["a"] * n_tokens)


@pytest.fixture
def model():
    return TokenModel(Answerer(), tiny_tokenizer())


def in_transformers():
    return TransformersModel(
        pretrained=tiny_model("LlamaForCausalLM"), tokenizer=tiny_tokenizer(), max_length=LENGTH, batch_size=2
    )


def test_only_the_tokens_of_the_choice_count(model):
    found = model._loglikelihood_tokens([(("", ""), [7, 5, 3], [2, 4]), (("", ""), [8], [6, 1])])
    assert found == [(-6.0, True), (-7.0, False)] and model.n_cut == 0


def test_what_is_too_long_loses_its_beginning_and_is_counted(model):
    fits, too_long = list(range(LENGTH - 3)), list(range(LENGTH))
    model._loglikelihood_tokens([(("", ""), fits, [2, 4])])
    assert model.n_cut == 0 and model.answerer.asked == [[*fits, 2, 4]]
    ((score, _),) = model._loglikelihood_tokens([(("", ""), too_long, [2, 4])])
    assert model.n_cut == 1 and model.answerer.asked[1] == [*too_long, 2, 4][-(LENGTH - 1) :] and score == -6.0


def test_transformers_count_what_the_harness_cuts():
    model = in_transformers()
    model._loglikelihood_tokens([(("", ""), [5] * (LENGTH - 1), [2, 4])], disable_tqdm=True)
    model.generate_until([generation(words(2), max_gen_toks=2)], disable_tqdm=True)
    assert model.n_cut == 0
    model._loglikelihood_tokens([(("", ""), [5] * LENGTH, [2, 4])], disable_tqdm=True)
    model.generate_until([generation(words(40), max_gen_toks=2)], disable_tqdm=True)
    assert model.n_cut == 2


@pytest.mark.parametrize("make", [in_transformers, lambda: TokenModel(Answerer(), tiny_tokenizer())])
def test_a_document_that_cannot_fit_is_said(make):
    with pytest.raises(BenchmarkError, match=r"a document needs \d+ tokens at least"):
        make()._loglikelihood_tokens([(("", ""), [5], [2] * (LENGTH + 1))])
    with pytest.raises(BenchmarkError, match=f"needs {LENGTH + 1} tokens at least and the model takes {LENGTH}"):
        make().generate_until([generation("a", max_gen_toks=LENGTH)])


def test_answers_come_in_the_order_of_their_requests_and_end_where_the_task_says(model):
    requests = [generation(words(3), max_gen_toks=2), generation(words(1)), generation(words(2), max_gen_toks=2)]
    requests[1].arguments[1]["max_gen_toks"] = 4
    lengths = [len(model.tok_encode(request.args[0])) for request in requests]
    assert model.generate_until(requests) == [f"{length} tokens" for length in lengths]
    asked = [(len(prompts), sampling["max_tokens"]) for prompts, sampling in model.answerer.asked]
    assert asked == [(2, 2), (1, 4)]
    assert all(sampling["temperature"] == 0 and "\n" in sampling["stop"] for _, sampling in model.answerer.asked)


def test_a_task_draws_as_it_says_and_what_another_backend_would_do_otherwise_is_refused(model):
    model.generate_until([generation("a", do_sample=True, temperature=0.5, top_p=0.9, max_gen_toks=2)])
    ((_, sampling),) = model.answerer.asked
    assert (sampling["temperature"], sampling["top_p"]) == (0.5, 0.9)
    with pytest.raises(BenchmarkError, match="the task sets num_beams of generation"):
        model.generate_until([generation("a", num_beams=4, max_gen_toks=2)])


def test_texts_of_different_lengths_scored_together_have_the_log_probabilities_of_each_alone():
    model = in_transformers()
    texts = {"long": [3, 9, 4, 7, 5, 8], "short": [6, 2, 9], "other": [11, 5, 3, 8]}
    together, ends = dict(model.text_logprobs(texts)), dict(model.next_token_logprobs(texts))
    for key, token_ids in texts.items():  # two at once, the third by itself
        logprobs = model.model(torch.tensor([token_ids])).logits[0].log_softmax(-1).detach()
        alone = [float(row[token]) for row, token in zip(logprobs[:-1], token_ids[1:], strict=True)]
        assert together[key] == pytest.approx(alone, abs=1e-5)  # float32
        assert ends[key] == pytest.approx(logprobs[-1].numpy(), abs=1e-5)
    assert together.keys() == ends.keys() == texts.keys()


class Server:
    """Answers every request by `choices`."""

    served = ServedModels("http://here/v1", "base", {}, LENGTH)

    def __init__(self, *choices):
        self.choices = choices

    def complete_all(self, bodies):
        self.bodies = bodies
        return self.choices


def scored(*steps):
    return {"prompt_logprobs": [None, *({str(token): {"logprob": p, "rank": rank}} for token, p, rank in steps)]}


def test_a_servers_log_probabilities_are_those_of_the_tokens_sent():
    server = Server(scored((5, -0.5, 1), (6, -2.0, 3)))
    (found,) = ServedAnswerer(server, {"model": "strong"}).score([[4, 5, 6]])
    assert found.logprobs.tolist() == [-0.5, -2.0] and found.is_best.tolist() == [True, False]
    (body,) = server.bodies
    assert (body["model"], body["prompt"], body["repetition_penalty"]) == ("strong", [4, 5, 6], 1.0)


@pytest.mark.parametrize(
    "choice", [scored((5, -0.5, 1), (7, -2.0, 3)), scored((5, -0.5, 1)), {"prompt_logprobs": None}, {}]
)
def test_log_probabilities_of_other_tokens_are_no_scores(choice):
    with pytest.raises(ServersError, match="scored other tokens than it was sent, or none"):
        ServedAnswerer(Server(choice), {"model": "base"}).score([[4, 5, 6]])


STRONG = {"basis_sha256": "ab12", "alpha": 1.0, "layers": [0, 1, 2], "site": "stream"}
INFO = ModelInfo("model", None, "model", "LlamaForCausalLM", 32, 3, 260, "float32", "fingerprint")


def backend_of(base="base", length=LENGTH, **changes):
    server = Server()
    server.served = ServedModels("http://here/v1", base, {"strong": STRONG | changes, "weak": STRONG}, length)
    return ServedBackend(server, INFO)


def test_an_ablation_of_a_server_is_known_by_what_the_server_removes():
    (first,), (same,) = (backend_of().use_own(["strong"]) for _ in "ab")
    assert first.source == same.source and first.edit == "ablation"
    for other in ({"basis_sha256": "cd34"}, {"alpha": 0.5}, {"layers": [0, 1]}, {"site": "writes"}):
        (changed,) = backend_of(**other).use_own(["strong"])
        assert changed.source != first.source
    assert [variant.id for variant in backend_of().use_own([])] == ["strong", "weak"]


def test_an_ablation_that_a_server_has_not_or_does_not_describe_is_said():
    with pytest.raises(BenchmarkError, match="--ablation absent: the server lists strong, weak"):
        backend_of().use_own(["absent"])
    with pytest.raises(BenchmarkError, match="--ablation strong: the server does not say what is removed"):
        backend_of(layers=None).use_own(["strong"])


def test_another_model_of_a_server_or_another_length_gives_other_scores():
    assert backend_of().versions == backend_of().versions
    assert len({tuple(backend_of(*about).versions) for about in (("base",), ("other",), ("base", 99))}) == 3
