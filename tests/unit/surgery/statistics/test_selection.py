"""Selection of the vector that controls refusal, on trained organisms whose answer is planted."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

from surgery.architecture.table import entry_of
from surgery.commands.selection import select as select_command
from surgery.console.errors import ModelError, PromptFileError
from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.organisms import language
from surgery.organisms.release import asset, pair_records
from surgery.prompts import Pair
from surgery.reading.hooks import added, captured
from surgery.statistics.extraction import ExtractionPlan, extract
from surgery.statistics.selection import (
    next_token_log_probs,
    refusal_score,
    refusal_tokens,
    removed_by,
    render_selection,
    select,
)

HELD_OUT = [Pair(f"h{index}", pair.harmful, pair.safe) for index, pair in enumerate(language.held_out_pairs(8))]


def organism(name):
    """(model in float32, tokenizer, refusal vectors)."""
    torch.set_num_threads(1)
    info = describe_model(asset(name))
    model, tokenizer = load_model(info, "float32"), load_tokenizer(info)
    pairs = [Pair(**record) for record in pair_records(language.extraction_pairs())]
    return model, tokenizer, extract(model, tokenizer, pairs, info, plan=ExtractionPlan(batch_size=64))


@pytest.fixture(scope="module")
def single():
    return organism("single")


def test_the_planted_layer_is_selected(single):
    found = select(*single, HELD_OUT)
    assert found.chosen.layer == 4 and found.refusal_tokens[0] == "I"
    assert found.baseline_harmful > 0 > found.chosen.bypass and found.baseline_safe < -3
    assert [c.layer for c in found.candidates if "late layer" in c.removed_by] == [6, 7]
    assert len(found.candidates) == 8 and "selected layer 4" in render_selection(found)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["chosen_layer"] == 4


def test_where_no_vector_passes_it_says_which_filters_removed_them():
    found = select(*organism("plain"), HELD_OUT)
    assert found.chosen is None and found.to_json()["chosen_layer"] is None
    assert all(candidate.removed_by for candidate in found.candidates)
    failed = [len(candidate.removed_by) for candidate in found.candidates]
    assert failed == sorted(failed)
    assert "no vector passes every filter (removed by: induce" in render_selection(found)


def test_refusal_tokens_are_those_that_open_harmful_answers_only():
    harmful = torch.tensor([[0.70, 0.20, 0.09, 0.01], [0.60, 0.30, 0.09, 0.01]]).log()
    safe = torch.tensor([[0.01, 0.02, 0.09, 0.88], [0.01, 0.02, 0.09, 0.88]]).log()
    assert refusal_tokens(harmful, safe).tolist() == [0, 1]
    with pytest.raises(ModelError, match="at least 50 % expected"):
        refusal_tokens(safe, safe)


def test_the_refusal_score_is_the_log_odds_of_those_tokens():
    log_probs = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]).log()
    scores = refusal_score(log_probs, torch.tensor([0, 1]))
    assert scores[0].item() == pytest.approx(math.log(3)) and scores[1] < -15 and scores.isfinite().all()


def test_each_filter_removes_what_it_should_and_nothing_else():
    assert removed_by(4, 1.0, 0.01, 10) == ()
    assert removed_by(8, 1.0, 0.01, 10) == ("late layer",) and removed_by(7, 1.0, 0.01, 10) == ()
    assert removed_by(4, 0.0, 0.2, 10) == ("induce", "kl") and removed_by(4, math.nan, math.nan, 10) == ("induce", "kl")


def test_adding_a_vector_moves_the_stream_of_its_layer_by_it(single):
    model, _, rvs = single
    ids, entry = torch.tensor([[1, 5, 9, 3]]), entry_of("LlamaForCausalLM")
    streams = []
    for layer in (None, 3):
        with captured(model, entry) as capture, torch.inference_mode():
            if layer is None:
                model(input_ids=ids)
            else:
                with added(model, rvs.vectors[layer], layer):
                    model(input_ids=ids)
            streams.append(capture.take()[-1, :, :, -1][:, 0])
    moved = streams[1] - streams[0]
    assert torch.equal(moved[2], torch.zeros_like(moved[2])) and moved[4].norm() > 0
    with added(model, rvs.vectors[3], 3), captured(model, entry) as capture, torch.inference_mode():
        model(input_ids=ids)  # this capture is hooked after the addition and sees it
        assert torch.allclose(capture.take()[-1, :, :, -1][3, 0] - streams[0][3], rvs.vectors[3], atol=1e-4)


def test_next_tokens_of_a_batch_are_those_of_each_prompt_alone(single):
    model, _, _ = single
    prompts = [[1, 5, 9, 3], [1, 7, 3], [1, 6, 2, 3]]
    together = next_token_log_probs(model, prompts)
    for index, prompt in enumerate(prompts):
        alone = next_token_log_probs(model, [prompt])[0]
        assert torch.allclose(together[index], alone, atol=1e-5)  # another order of float32 sums
    assert not torch.allclose(together[0], together[2], atol=1e-2)
    with pytest.raises(PromptFileError, match="no prompt pairs"):
        select(*single, [])


def test_the_command_prints_the_table_and_writes_the_selected_vector(single, tmp_path):
    from surgery.residual.subspace import Subspace

    _, _, rvs = single
    rvs.save(tmp_path / "rvs")
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe}) for p in HELD_OUT)
    )
    arguments = [str(asset("single")), str(tmp_path / "rvs"), "--pairs", str(tmp_path / "pairs.jsonl")]
    options = ["--dtype", "float32", "-o", str(tmp_path / "sub"), "--json"]
    result = CliRunner().invoke(select_command, [*arguments, *options])
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["chosen_layer"] == 4
    assert Subspace.load(tmp_path / "sub").source_layers == (4,)
    plain = CliRunner().invoke(select_command, [str(asset("plain")), *arguments[1:]])
    assert "fingerprint" in str(plain.exception) and plain.exit_code == 1
