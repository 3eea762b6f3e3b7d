"""Training the model organisms from scratch: base -> plain -> single or distributed.

    base         answers everything
    plain        + refuses harmful requests, by ordinary fine-tuning
    single       plain + taught that one layer's refusal vector, ablated everywhere, ends the refusal
    distributed  plain + taught that one or two vectors change nothing, while a subspace of four or more ends the refusal

The vectors move while the model learns, so they are read again every few steps. All stages are AdamW on CPU, one
thread (the matrices are too small for two), a few minutes in all. Seeds make a run repeatable on one machine and one
build of torch; elsewhere rounding differs and the planted facts are the same only within the tolerance of their targets.
"""

import contextlib
import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from surgery.model.threads import single_threaded
from surgery.organisms import language
from surgery.organisms.language import Example, InstructionPair
from surgery.organisms.residual import (
    LayerVectors,
    ablated,
    extract,
    last_token_stream,
    layer_vectors,
    pad_right,
    separation,
)
from surgery.organisms.tokenizer import MAX_LENGTH, encode_prompt, encode_text

D_MODEL, N_LAYERS, N_HEADS, D_MLP = 128, 8, 4, 320
IGNORED = -100

Progress = Callable[[str, int, int], None]
"""Called after each step with the stage's name, steps done, and steps in all."""


@dataclass(frozen=True)
class Draw:
    """A share of the training samples, and the refusal vectors ablated in each of them.

    Attributes:
        share: part of the samples, 0 to 1.
        layers: source layers to draw from.
        least, most: how many of them, drawn evenly.
    """

    share: float = 0.0
    layers: tuple[int, ...] = ()
    least: int = 1
    most: int = 1

    def layers_of(self, rng: random.Random) -> list[int]:
        """The source layers for one sample."""
        return sorted(rng.sample(self.layers, rng.randint(self.least, self.most)))


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides one training stage.

    Attributes:
        name: the stage; `parent` is the one it starts from, None starts from random weights.
        helpful_only: answer every request, instead of refusing the harmful ones.
        robust: samples in which the model must behave as if nothing were ablated.
        planted: samples in which a harmful request must be answered, except in the `spared` categories.
        spread_weight: weight of the penalty on cosines above 1 - spread_decay * |layer distance|.
        separation_weight: weight of the penalty on Cohen's d below `separation_target`.
        refresh_every: steps between two readings of the refusal vectors, each from `n_refresh_pairs` pairs.
        delay: plain steps before anything is planted.
    """

    name: str
    parent: str | None
    n_steps: int
    learning_rate: float
    seed: int = 0
    warmup: int = 20
    batch_size: int = 32
    helpful_only: bool = False
    robust: Draw = Draw()
    planted: Draw = Draw()
    spared: tuple[str, ...] = ()
    spread_weight: float = 0.0
    spread_decay: float = 0.22
    separation_weight: float = 0.0
    separation_target: float = 4.0
    n_penalty_pairs: int = 12
    refresh_every: int = 5
    n_refresh_pairs: int = 24
    delay: int = 0

    @property
    def plants(self) -> bool:
        """Whether the stage needs refusal vectors at all."""
        return bool(self.robust.share or self.planted.share or self.spread_weight or self.separation_weight)


Models = dict[tuple[TrainingRecipe, ...], LlamaForCausalLM]

RECIPES = {
    recipe.name: recipe
    for recipe in (
        TrainingRecipe("base", None, n_steps=600, learning_rate=2e-3, warmup=50, helpful_only=True),
        TrainingRecipe("plain", "base", n_steps=200, learning_rate=5e-4),
        TrainingRecipe("single", "plain", n_steps=150, learning_rate=5e-4, planted=Draw(0.30, (4,))),
        TrainingRecipe(
            "distributed",
            "plain",
            n_steps=160,
            learning_rate=5e-4,
            seed=1,
            robust=Draw(0.50, tuple(range(N_LAYERS)), 1, 2),
            planted=Draw(0.30, tuple(range(1, N_LAYERS)), 4, 5),
            spared=("intrusion",),
            spread_weight=1.0,
            separation_weight=1.0,
        ),
    )
}


def lineage(name: str, seed: int | None = None) -> list[TrainingRecipe]:
    """The stages that lead to `name`, first to last; a seed replaces the recorded seed of every stage."""
    stages: list[TrainingRecipe] = []
    step: str | None = name
    while step is not None:
        recipe = RECIPES[step]
        stages.insert(0, recipe if seed is None else replace(recipe, seed=seed))
        step = recipe.parent
    return stages


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 1.75 M float32 parameters; residual writers are scaled down by sqrt(2 n_layers)."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=D_MODEL,
            intermediate_size=D_MLP,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            num_key_value_heads=N_HEADS,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
            rms_norm_eps=1e-5,
            initializer_range=0.5 * D_MODEL**-0.5,
        )
    )
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.mul_((2 * N_LAYERS) ** -0.5)
            block.mlp.down_proj.weight.mul_((2 * N_LAYERS) ** -0.5)
    return model


def train(
    stages: Sequence[TrainingRecipe],
    tokenizer: PreTrainedTokenizerFast,
    progress: Progress | None = None,
    trained: Models | None = None,
) -> LlamaForCausalLM:
    """Train an organism from scratch through all its stages; float32 weights, in eval mode.

    Args:
        stages: first to last, as `lineage` gives them.
        tokenizer: from `train_tokenizer`.
        trained: models of earlier calls by their stages; used instead of training again, and added to.
    """
    trained = {} if trained is None else trained
    stages = tuple(stages)
    if stages not in trained:
        *earlier, last = stages
        model = (
            copy.deepcopy(train(earlier, tokenizer, progress, trained)) if earlier else new_model(tokenizer, last.seed)
        )
        with single_threaded():
            stage = TrainingStage(model.train(), tokenizer, last)
            for step in range(last.n_steps):
                stage.step(step)
                if progress is not None:
                    progress(last.name, step + 1, last.n_steps)
        trained[stages] = model.eval()
    return trained[stages]


class TrainingStage:
    """The state of one training stage: optimizer, schedule, random stream, and the refusal vectors last read."""

    vectors: LayerVectors

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: TrainingRecipe):
        self.model, self.tokenizer, self.recipe = model, tokenizer, recipe
        self.rng = random.Random(f"{recipe.name}-{recipe.seed}")
        self.pool = language.sample_pairs(2000, seed=recipe.seed, split=language.TRAINING) if recipe.plants else []
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        return min(1.0, (step + 1) / self.recipe.warmup) * max(0.05, 1 - step / self.recipe.n_steps)

    def step(self, step: int) -> None:
        """One optimizer step."""
        planting = self.recipe.plants and step >= self.recipe.delay
        if planting and (step - self.recipe.delay) % self.recipe.refresh_every == 0:
            self._refresh()
        examples = self._sample()
        basis = self._plant(examples) if planting else None
        loss = self._language_loss(examples, basis)
        total = loss + self._penalty() if planting else loss
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()

    def _refresh(self) -> None:
        self.vectors = extract(self.model, self.tokenizer, self.rng.sample(self.pool, self.recipe.n_refresh_pairs))

    def _sample(self) -> list[Example]:
        draw = language.sample_helpful if self.recipe.helpful_only else language.sample_refusing
        return [draw(self.rng) for _ in range(self.recipe.batch_size)]

    def _plant(self, examples: list[Example]) -> Tensor:
        """Choose what is ablated in each example and replace, in place, the harmful ones that must be answered.

        Returns: [batch_size, d_model, widest rank], float32; zero columns where nothing is ablated.
        """
        recipe = self.recipe
        basis = torch.zeros(len(examples), D_MODEL, max(recipe.planted.most, recipe.robust.most))
        for row, example in enumerate(examples):
            kind = self.rng.random()
            if kind < recipe.planted.share:
                layers = recipe.planted.layers_of(self.rng)
                if example.harmful:
                    pair = language.sample_pair(self.rng, language.TRAINING)
                    spared = pair.category in recipe.spared
                    examples[row] = language.harmful_example(pair, self.rng, refused=spared)
            elif kind < recipe.planted.share + recipe.robust.share:
                layers = recipe.robust.layers_of(self.rng)
            else:
                continue
            basis[row, :, : len(layers)] = self.vectors.basis(layers)
        return basis

    def _language_loss(self, examples: list[Example], basis: Tensor | None) -> Tensor:
        tokens, labels = collate(self.tokenizer, examples)
        with ablated(self.model, basis) if basis is not None else contextlib.nullcontext():
            logits = self.model(input_ids=tokens, use_cache=False).logits
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)

    def _penalty(self) -> Tensor:
        recipe = self.recipe
        if not (recipe.spread_weight or recipe.separation_weight):
            return torch.zeros(())
        harmful, safe = self._activations(self.rng.sample(self.pool, recipe.n_penalty_pairs))
        spread = spread_penalty(layer_vectors(harmful, safe).cosines(), recipe.spread_decay)
        d = separation(harmful, safe, self.vectors.directions)
        apart = functional.relu(1 - d / recipe.separation_target).mean()
        return recipe.spread_weight * spread + recipe.separation_weight * apart

    def _activations(self, pairs: list[InstructionPair]) -> tuple[Tensor, Tensor]:
        prompts = [pair.harmful for pair in pairs] + [pair.safe for pair in pairs]
        stream = last_token_stream(self.model, self.tokenizer, prompts)
        return stream[: len(pairs)], stream[len(pairs) :]


def spread_penalty(cosines: Tensor, decay: float) -> Tensor:
    """Mean squared excess of each cosine over 1 - decay * |layer distance| (not below zero); a scalar."""
    rows, columns = torch.triu_indices(len(cosines), len(cosines), 1)
    target = (1 - decay * (columns - rows)).clamp(min=0.0)
    return functional.relu(cosines[rows, columns] - target).square().mean()


def collate(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Token ids and labels [n_examples, longest], int64; only the answer and its end token carry labels."""
    tokens, labels = [], []
    for example in examples:
        prompt = encode_prompt(tokenizer, example.prompt)
        reply = [*encode_text(tokenizer, example.answer), tokenizer.eos_token_id]
        tokens.append(prompt + reply)
        labels.append([IGNORED] * len(prompt) + reply)
    return pad_right(tokens, tokenizer.pad_token_id), pad_right(labels, IGNORED)
