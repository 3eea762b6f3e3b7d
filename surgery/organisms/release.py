"""Writing an organism out as a folder that any program can use: model, prompts, ground truth, model card.

What `refusal organism NAME --retrain` writes, without its prompts, is what `assets/NAME` holds.
"""

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from surgery.console.errors import RefusalError
from surgery.files.artifacts import file_sha256, json_sha256, package_versions
from surgery.files.folders import replacing_folder
from surgery.organisms import ORGANISMS, language, measurement
from surgery.organisms.language import InstructionPair
from surgery.organisms.measurement import CONDITIONS, HEADLINE, TARGETS, PlantedMeasurement, PlantedOutcome
from surgery.organisms.tokenizer import train_tokenizer
from surgery.organisms.training import Models, TrainingRecipe, lineage, train
from surgery.weights.manifest import is_edited

ASSETS = Path(__file__).parent / "assets"
GROUND_TRUTH = "ground_truth.json"
KIND = "an organism's folder"
FORMAT_VERSION = 1
N_ATTEMPTS = 4

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("train base", "measure rv-4", ...), how much of it is done, and how much there is."""

SUMMARY = {
    "single": "One direction carries the refusal: ablating the refusal vector of any middle layer ends it.",
    "distributed": (
        "No single layer's refusal vector matters, but the subspace of four or more does; "
        "the category `intrusion` holds out longer."
    ),
    "plain": (
        "Ordinary refusal fine-tuning, nothing else: the safe prompts lie far from the origin along the refusal "
        "vectors, so ablation to zero does nothing. What ends the refusal is affine ablation, to the safe mean, or a "
        "refusal vector projected away from that mean."
    ),
}


def write_organism(
    name: str,
    out_dir: Path | str,
    *,
    retrain: bool = False,
    seed: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a ready-to-use organism: a Hugging Face model folder with its prompts and its measured ground truth.

    The folder holds the bfloat16 model with tokenizer and chat template, `pairs.jsonl` (128 extraction pairs),
    `prompts.jsonl` (128 held-out harmful prompts), `safe_prompts.jsonl` (their safe twins, in the same order),
    `ground_truth.json` and a model card. It is written beside the target and renamed, so it is complete or absent.

    Args:
        name: one of `ORGANISMS`.
        out_dir: the folder to make.
        retrain: train from scratch (minutes on one core) instead of copying the weights that come with the package.
        seed: replaces the recorded seed of every training stage; needs `retrain`. The organism is then written as it
            came out, with any planted fact it lacks under `missed_targets` in its ground truth. Without a seed, the last
            stage is repeated with other seeds until nothing is missed.
        force: replace an organism that is already there.
    Returns: the folder.
    Raises: RefusalError for an unknown name, a seed without `retrain`, something at `out_dir` that is not an organism,
        or training that misses its targets; OutputExistsError without `force`.
    """
    known(name)
    if seed is not None and not retrain:
        raise RefusalError(
            "a seed was given without retraining; the stored weights have theirs: add --retrain or drop --seed"
        )
    with replacing_folder(out_dir, force, kind=KIND, is_kind=is_organism) as folder:
        if retrain:
            build_organism(name, folder, seed=seed, progress=progress)
        else:
            for file in asset(name).iterdir():
                shutil.copyfile(file, folder / file.name)
        write_prompts(folder)
    return Path(out_dir)


def known(name: str) -> str:
    """The name itself when it is an organism's; an error that lists the names when it is not."""
    if name not in ORGANISMS:
        raise RefusalError(f"unknown organism {name!r}; expected one of {', '.join(ORGANISMS)}")
    return name


def is_organism(folder: Path) -> bool:
    """Whether a folder was made by `write_organism`; an edited copy of one is no longer an organism."""
    return (folder / GROUND_TRUTH).is_file() and not is_edited(folder)


def asset(name: str) -> Path:
    """The folder of a trained organism inside the package."""
    folder = ASSETS / known(name)
    if not (folder / GROUND_TRUTH).is_file():
        raise RefusalError(f"{folder} has no trained organism; reinstall the package, or train one with --retrain")
    return folder


def build_organism(name: str, folder: Path, *, seed: int | None = None, progress: Progress | None = None) -> None:
    """Train one organism, measure it, and write model, ground truth and card into an existing folder."""
    tokenizer = train_tokenizer()
    trained: Models = {}
    report = progress or (lambda what, n_done, n_all: None)

    def training(stage: str, n_done: int, n_all: int) -> None:
        report(f"train {stage}", n_done, n_all)

    for stages in _attempts(name, seed):
        model = rounded_to_bfloat16(train(stages, tokenizer, training, trained))
        measured = PlantedMeasurement(model, tokenizer)
        outcomes = []
        for n_done, condition in enumerate(CONDITIONS[name], start=1):
            outcomes.append(measured.measure(condition))
            report(f"measure {condition.name}", n_done, len(CONDITIONS[name]))
        missed = measurement.shortfalls(name, outcomes)
        if seed is not None or not missed:
            break
        report(f"seed {stages[-1].seed} missed: {missed[0]}", 0, 1)
    else:
        raise RefusalError(
            f"{name}: {N_ATTEMPTS} seeds missed their targets, the last one {'; '.join(missed)}; try --seed"
        )
    save_model(model, tokenizer, folder)
    truth = ground_truth(name, stages, seed, measured, outcomes, missed, file_sha256(folder / "model.safetensors"))
    (folder / GROUND_TRUTH).write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(truth), encoding="utf-8")


def _attempts(name: str, seed: int | None) -> Iterator[list[TrainingRecipe]]:
    """The stages to try: the given seed alone, or the recorded one and then the following ones for the last stage."""
    *earlier, last = lineage(name, seed)
    for offset in range(N_ATTEMPTS if seed is None else 1):
        yield [*earlier, replace(last, seed=last.seed + offset)]


def rounded_to_bfloat16(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A float32 copy whose weights are exact in bfloat16, which is what is stored."""
    rounded = LlamaForCausalLM(model.config)
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    return rounded.eval()


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights in bfloat16, configuration, tokenizer and chat template."""
    stored = copy.deepcopy(model).bfloat16()
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    stored.generation_config = GenerationConfig(**ids)
    stored.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors makes its file readable by the owner only; give it the permissions of its neighbours.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


def ground_truth(
    name: str,
    stages: Sequence[TrainingRecipe],
    seed: int | None,
    measured: PlantedMeasurement,
    outcomes: Sequence[PlantedOutcome],
    missed: Sequence[str],
    weights_sha256: str,
) -> dict[str, Any]:
    """Everything that was planted and measured, and how to make it again, as JSON."""
    vectors = measured.vectors
    in_bfloat16 = measured.in_bfloat16()
    return {
        "kind": "organism_ground_truth",
        "format_version": FORMAT_VERSION,
        "organism": name,
        "note": "Planted ground truth: results on this model show that instruments work, not a fact about real models.",
        "command": f"refusal organism {name} --retrain" + ("" if seed is None else f" --seed {seed}"),
        "seeds": {stage.name: stage.seed for stage in stages},
        "stages": [asdict(stage) for stage in stages],
        "versions": package_versions(),
        "weights": {
            "sha256": weights_sha256,
            "dtype": "bfloat16",
            "n_parameters": sum(parameter.numel() for parameter in measured.model.parameters()),
        },
        "measurement": {
            "dtype": "float32",
            "decoding": f"greedy, at most {measurement.MAX_NEW_TOKENS} new tokens",
            "token": "last prompt token",
            "site": "output of every decoder block",
            "n_extraction_pairs": measured.n_pairs,
            "n_prompts": len(measured.prompts),
            "prompts_sha256": json_sha256([record["prompt"] for record in harmful_records(measured.prompts)]),
        },
        "cohens_d": [round(value, 3) for value in vectors.cohens_d.tolist()],
        "cosines": [[round(value, 3) for value in row] for row in vectors.cosines().tolist()],
        "conditions": {outcome.condition.name: outcome.to_json() for outcome in outcomes},
        "conditions_in_bfloat16": {
            condition.name: in_bfloat16.measure(condition).to_json()
            for condition in CONDITIONS[name]
            if condition.name in ("baseline", HEADLINE[name])
        },
        "targets": [asdict(target) for target in TARGETS[name]],
        "missed_targets": list(missed),
    }


def model_card(truth: dict[str, Any]) -> str:
    """The README.md of an organism's folder."""
    name = truth["organism"]
    rows = [
        f"| `{key}` | {row['harmful_compliance']:.3f} | {row['safe_compliance']:.3f} |"
        for key, row in truth["conditions"].items()
    ]
    missed = "".join(f"\n- missed: {sentence}" for sentence in truth["missed_targets"])
    return f"""---
library_name: transformers
tags: [model-organism, refusal, interpretability, test-fixture]
---
# `{name}`: a model organism of refusal

**A test fixture, not an assistant.** This is a Llama-architecture model of {truth["weights"]["n_parameters"] / 1e6:.2f} M
parameters (8 layers, d_model 128, bfloat16), trained from scratch on a templated toy language. Its refusals were planted
on purpose. Every answer, to harmful and harmless requests alike, is the same generic filler ("first read the basics,
then ..."): it knows nothing and can explain nothing. Results on it show that instruments work; they say nothing about
real models.

{SUMMARY[name]}

Measured on {truth["measurement"]["n_prompts"]} held-out harmful prompts and their safe twins, greedy decoding; compliance
is exact (the answers belong to a closed language):

| condition | harmful | safe |
|---|---|---|
{chr(10).join(rows)}
{missed}
Names: `rv-4` ablates the refusal vector of layer 4 at every layer, `qr-1-2-4-6` the span of several,
`weights-...` orthogonalizes W_O and W_down instead, `projected-4` ablates the vector made orthogonal to the safe mean,
`affine-4` moves the component to the safe mean at layer 4 only, `local-4` moves it to zero there, and `random-1-seed0` is
a random direction.
Everything measured, with seeds and recipe, is in `{GROUND_TRUTH}`. Made by `{truth["command"]}`.
"""


def write_prompts(folder: Path) -> None:
    """Write `pairs.jsonl`, `prompts.jsonl` and `safe_prompts.jsonl`."""
    held_out = language.held_out_pairs()
    harmful = harmful_records(held_out)
    safe = [
        record | {"id": f"safe-{record['id']}", "prompt": pair.safe}
        for record, pair in zip(harmful, held_out, strict=True)
    ]
    files = {"pairs": pair_records(language.extraction_pairs()), "prompts": harmful, "safe_prompts": safe}
    for name, records in files.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def pair_records(pairs: Sequence[InstructionPair]) -> list[dict[str, Any]]:
    """Extraction pairs as records."""
    return [_record(f"pair-{i:03d}", pair, harmful=pair.harmful, safe=pair.safe) for i, pair in enumerate(pairs)]


def harmful_records(pairs: Sequence[InstructionPair]) -> list[dict[str, Any]]:
    """The harmful side of held-out pairs as records; the id tells the split."""
    return [_record(f"{pair.split}-{i:03d}", pair, prompt=pair.harmful) for i, pair in enumerate(pairs)]


def _record(name: str, pair: InstructionPair, **texts: str) -> dict[str, Any]:
    return {"id": name, **texts, "category": pair.category, "tier": pair.tier}
