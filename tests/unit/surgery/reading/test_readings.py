"""What extraction reads: sites, token positions, batches, held-out pairs, tags, template options."""

from dataclasses import replace

import pytest
import torch
from tiny_models import PAIRS, TEMPLATE, tiny_model, tiny_tokenizer, token_ids

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import ArtifactError, ModelError, PositionError
from surgery.model.chat import prompt_token_ids
from surgery.model.models import ModelInfo
from surgery.prompts import Pair
from surgery.reading.contrast import tag_rows
from surgery.reading.hooks import captured
from surgery.reading.positions import end_of_instruction, parse_positions
from surgery.residual.sites import RESID_SITES
from surgery.residual.subspace import Subspace
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.extraction import ExtractionPlan, extract

N_LAYERS = 3
ENDING = 2  # <|end|><|assistant|>
LLAMA = "LlamaForCausalLM"
INFO = ModelInfo("tiny", None, "/tiny", LLAMA, 32, N_LAYERS, 260, "float32", "f" * 64)
MANY = [
    Pair(
        f"m{n}",
        f"How do I forge {'one more ' * (n % 3)}{item}?",
        f"How do I verify {'a ' * (n % 2)}{item}?",
        category,
        n % 2,
    )
    for n, (item, category) in enumerate(
        (item, category) for category in ("fraud", "theft") for item in ("tickets", "badges", "letters", "stamps")
    )
]
THINKING = TEMPLATE + "{% if enable_thinking is defined and enable_thinking is false %}<|end|>{% endif %}"


@pytest.fixture(scope="module")
def model():
    return tiny_model(LLAMA, n_layers=N_LAYERS)


def read(model, pairs=PAIRS, tokenizer=None, **plan):
    return extract(model, tokenizer or tiny_tokenizer(), pairs, INFO, plan=ExtractionPlan(**plan))


def stream(model, text, sites=RESID_SITES, n_positions=ENDING):
    with captured(model, entry_of(LLAMA), sites, n_positions) as capture, torch.inference_mode():
        model(input_ids=torch.tensor([prompt_token_ids(tiny_tokenizer(), text)]))
        return capture.take()[:, :, 0]


def test_the_end_of_instruction_tokens_are_found_by_rendering():
    tokenizer = tiny_tokenizer()
    assert tokenizer.convert_ids_to_tokens(end_of_instruction(tokenizer)) == ["<|end|>", "<|assistant|>"]
    longer = tiny_tokenizer(TEMPLATE.replace("<|end|>", " Answer briefly.<|end|>"))
    assert len(end_of_instruction(longer)) == ENDING + len(" Answer briefly.")
    nothing = tiny_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ModelError, match="nothing between the prompt and the answer"):
        end_of_instruction(nothing)


def test_positions_are_read_as_negative_numbers_within_the_template():
    assert parse_positions("all", 3) == (-3, -2, -1) and parse_positions("-1,-3", 3) == (-3, -1)
    for spec, message in (("-4", "-3..-1"), ("0", "-3..-1"), ("last", "cannot be read")):
        with pytest.raises(PositionError, match=message):
            parse_positions(spec, 3)


@pytest.mark.parametrize("architecture", [name for name, entry in ARCHITECTURES.items() if entry.fed_mid])
def test_each_site_is_the_stream_where_its_name_says(architecture):
    model, entry, seen = tiny_model(architecture, n_layers=N_LAYERS), entry_of(architecture), {}
    for layer in range(N_LAYERS):
        added = entry.attention.norm or entry.attention.module
        model.get_submodule(f"{entry.block(layer)}.{added}").register_forward_hook(
            lambda _module, _args, output, layer=layer: seen.__setitem__(layer, output)
        )
    with captured(model, entry, RESID_SITES, 2) as capture, torch.inference_mode():
        model(input_ids=token_ids())
        pre, mid, post = capture.take()
    assert torch.equal(pre[1:], post[:-1])
    assert torch.equal(pre[0], model.get_input_embeddings()(token_ids())[:, -2:])
    scale = getattr(model.config, "residual_multiplier", 1.0)
    for layer in range(N_LAYERS):
        assert not torch.allclose(mid[layer], post[layer], atol=1e-2)
        assert torch.allclose(mid[layer], pre[layer] + scale * seen[layer][:, -2:], atol=1e-5)  # one float32 addition


def test_a_family_without_such_a_site_is_refused():
    model = tiny_model(LLAMA)
    with pytest.raises(ModelError, match="Parallel.* no resid_mid"):
        with captured(model, replace(entry_of(LLAMA), name="ParallelForCausalLM", fed_mid=None), ("resid_mid",)):
            pass
    with pytest.raises(ModelError, match="site must be one of"), captured(model, entry_of(LLAMA), ("resid_end",)):
        pass
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.model.layers)


def test_every_site_and_position_is_kept_and_the_chosen_one_leads(model, tmp_path):
    rvs = read(model, sites=RESID_SITES, positions="all")
    rvs.save(tmp_path / "rvs.safetensors")
    rvs = RefusalVectors.load(tmp_path / "rvs.safetensors")
    assert torch.equal(rvs.vectors, read(model).vectors) and len(rvs.header["readings"]) == 6
    harmful = torch.stack([stream(model, pair.harmful) for pair in PAIRS]).double().mean(0)
    safe = torch.stack([stream(model, pair.safe) for pair in PAIRS]).double().mean(0)
    for index, site in enumerate(RESID_SITES):
        for position in (-2, -1):
            if (site, position) == ("resid_pre", -1):
                assert torch.equal(rvs.at(site, position).vectors[1:], rvs.at("resid_post", position).vectors[:-1])
            found = rvs.at(site, position)
            expected = (harmful - safe)[index, :, position].float()
            assert torch.allclose(found.vectors, expected, atol=1e-5), (site, position)
            assert found.projections_harmful.shape == (len(PAIRS), N_LAYERS)
    assert not torch.allclose(rvs.at("resid_post", -2).vectors, rvs.vectors, atol=1e-2)
    alone = read(model, site="resid_mid", position=-2)
    assert torch.equal(alone.vectors, rvs.at("resid_mid", -2).vectors) and alone.header["position"] == "prompt token -2"
    with pytest.raises(ArtifactError, match="read at resid_post@-1; the file holds resid_mid@-2"):
        alone.at("resid_post", -1)
    with pytest.raises(PositionError, match="-2..-1"):
        read(model, position=-3)


def test_the_first_block_reads_embeddings_that_do_not_depend_on_the_prompt(model):
    with pytest.raises(ModelError, match="layer 0: harmful and safe prompts give equal mean"):
        read(model, site="resid_pre")
    beside = read(model, sites=("resid_pre",)).at("resid_pre", -1)  # beside vectors that can be used it may be zero
    assert beside.vectors[0].norm() == 0 and not beside.projections_safe[:, 0].any() and beside.vectors[1].norm() > 0


def test_batched_equals_sequential_and_batches_are_full_of_tokens(model):
    lengths, calls = [], []
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: lengths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    sequential, n_alone = read(model, MANY), len(lengths)
    batched = extract(
        model, tiny_tokenizer(), MANY, INFO, lambda *done: calls.append(done), ExtractionPlan(batch_size=3)
    )
    handle.remove()
    prefix, *batches = lengths[n_alone:]
    assert n_alone == 16 and len(batches) < 16 and prefix == (1, batched.header["shared_prefix_tokens"])
    assert sum(rows for rows, _ in batches) == 16 and max(rows for rows, _ in batches) == 3
    assert calls == [(done, 16) for done in range(1, 17)]
    for name in ("vectors", "mean_safe", "projections_harmful", "projections_safe"):
        a, b = getattr(sequential, name), getattr(batched, name)
        assert (a - b).abs().max() <= 1e-5 * a.abs().max(), name
    assert "sequential" in sequential.header["method"] and "equal length" in batched.header["method"]
    other = read(model, MANY[::-1])  # the control: pairs in another order are other projections
    assert (other.projections_safe - sequential.projections_safe).abs().max() > 1e-2


def test_held_out_pairs_are_projected_on_vectors_they_did_not_shape(model):
    rvs = read(model, MANY[:5], held_out=PAIRS[1:])
    assert torch.equal(rvs.vectors, read(model, MANY[:5]).vectors) and rvs.n_pairs == 5
    for row, pair in enumerate(PAIRS[1:]):
        expected = (
            stream(model, pair.harmful)[2, :, -1] * torch.stack([rvs.direction(n) for n in range(N_LAYERS)])
        ).sum(1)
        assert torch.allclose(rvs.extras["held_out_harmful"][row], expected, atol=1e-4)
    assert rvs.extras["held_out_safe"].shape == (3, N_LAYERS) and rvs.header["held_out"]["n_pairs"] == 3
    assert "held_out_safe" not in read(model, MANY[:5]).extras


def test_tiers_and_categories_have_vectors_of_their_own(model, tmp_path):
    rvs = read(model, MANY)
    rvs.save(tmp_path / "rvs.safetensors")
    rvs = RefusalVectors.load(tmp_path / "rvs.safetensors")
    assert [entry["tag"] for entry in rvs.header["tags"]] == ["tier 0", "tier 1", "category fraud", "category theft"]
    fraud = read(model, [pair for pair in MANY if pair.category == "fraud"])
    assert torch.allclose(rvs.of_tag("category fraud").vectors, fraud.vectors, atol=1e-6)
    assert not torch.allclose(rvs.of_tag("category theft").vectors, fraud.vectors, atol=1e-2)
    assert rvs.of_tag("tier 1").n_pairs == 4
    with pytest.raises(ArtifactError, match="no refusal vectors of 'tier 3'; the file holds tier 0, tier 1"):
        rvs.of_tag("tier 3")
    assert tag_rows(PAIRS) == {}  # one category or none is no division


def test_the_safe_mean_of_a_tier_is_that_of_its_own_prompts(model):
    rvs, alone = read(model, MANY), read(model, [pair for pair in MANY if pair.tier == 1])
    tagged = rvs.of_tag("tier 1")
    assert torch.allclose(tagged.mean_safe, alone.mean_safe, atol=1e-6)
    assert not torch.allclose(tagged.mean_safe, rvs.mean_safe, atol=1e-2)
    for made, expected in (
        (Subspace.from_vectors(rvs, "2").towards(rvs, 2), False),
        (Subspace.from_vectors(tagged, "2").towards(tagged, 2), True),
    ):
        own = Subspace.from_vectors(alone, "2").towards(alone, 2)
        assert torch.allclose(made.offset, own.offset, atol=1e-4) is expected


def test_a_file_without_the_safe_mean_of_a_tier_gives_no_reference_of_another(model):
    rvs = read(model, MANY)
    old = replace(rvs, extras={name: tensor for name, tensor in rvs.extras.items() if name != "safe_by_tag"})
    tagged = old.of_tag("tier 1")
    assert torch.equal(tagged.vectors, rvs.of_tag("tier 1").vectors)
    with pytest.raises(ArtifactError, match=r"no safe mean of tier 1; extract it again"):
        Subspace.from_vectors(tagged, "2").towards(tagged, 2)
    with pytest.raises(ArtifactError, match=r"no safe mean of tier 1; extract it again"):
        Subspace.from_vectors(tagged, "2", "projected")


def test_the_vectors_of_a_tier_are_differences_of_means_and_say_so_whatever_the_estimator(model):
    whole = read(model, MANY, estimator="svd")
    tagged = whole.of_tag("tier 1")
    assert (whole.header["estimator"], tagged.header["estimator"]) == ("svd", "mean")
    assert tagged.header["method"].startswith("difference of means, ") and whole.header["method"].startswith("svd, ")
    with pytest.raises(ArtifactError, match="the file holds no tags"):  # another reading keeps none
        read(model, MANY, sites=("resid_mid",)).at("resid_mid", -1).of_tag("tier 1")


def test_template_options_reach_the_template_and_unknown_ones_are_refused(model):
    tokenizer = tiny_tokenizer(THINKING)
    plain, changed = (
        read(model, tokenizer=tokenizer),
        read(model, tokenizer=tokenizer, template_options={"enable_thinking": False}),
    )
    assert changed.header["template_options"] == {"enable_thinking": False} and plain.header["template_options"] == {}
    assert not torch.allclose(plain.vectors, changed.vectors, atol=1e-2)
    assert len(changed.header["ending"]) == len(plain.header["ending"]) + 1
    with pytest.raises(ModelError, match="knows no option 'enable_thinkin'"):
        read(model, tokenizer=tokenizer, template_options={"enable_thinkin": False})


def test_singular_directions_are_kept_where_asked_for(model):
    rvs = read(model, n_components=2)
    components = rvs.extras["components"]
    assert components.shape == (N_LAYERS, 2, 32) and rvs.extras["singular_values"].shape == (N_LAYERS, 2)
    assert torch.allclose(components @ components.transpose(1, 2), torch.eye(2).expand(N_LAYERS, 2, 2), atol=1e-5)
    assert "components" not in read(model).extras


def test_a_plan_that_cannot_be_carried_out_is_refused():
    with pytest.raises(ModelError, match="estimator 'median' is not known; use one of mean, median-of-means"):
        ExtractionPlan(estimator="median")
    with pytest.raises(ModelError, match="batch size must be at least 1"):
        ExtractionPlan(batch_size=0)
