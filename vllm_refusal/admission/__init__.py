"""Where requests enter vLLM: settings are loaded, keys checked and resolved, cache keys kept apart (`patches`); every
engine core proves its ablations before it is ready (`core_proof`)."""
