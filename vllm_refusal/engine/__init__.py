"""vLLM engines in this process.

engine              bulk generation: one start, any mixture of interventions
replacement         other ablations while it runs
captured            activations fetched from it
activation_source   extraction's source of activations
distributions       next-token distributions and probabilities of given texts
lora                adapters, as vLLM must be told of them
doctor              proof that ablation is on, here or in a running server
"""
