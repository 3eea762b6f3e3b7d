"""The offline half, and the core that both halves agree on: refusal vectors (RVs), what is said of them, edited weights.

Rooms, each of which imports only those before it; none imports vllm_refusal or eval:

    console        faults of one line, progress on stderr
    files          tensors, folders and rows on disk, written whole or not at all
    residual       the operator on the residual stream, layers, vectors, subspaces
    architecture   which parts of a model write to the residual stream
    model          a model folder: shape, weights, chat template, dates, float types
    prompts        prompts and matched pairs, from files, hubs and the built-in sets
    reading        activations of prompts, by forward hooks
    statistics     from activations to refusal vectors, and what is said of them
    weights        orthogonalized checkpoints and LoRA adapters, and their proof
    conversion     checkpoints of old formats, rewritten
    organisms      tiny chat models with a planted refusal
    commands       the commands, one file a noun
"""
