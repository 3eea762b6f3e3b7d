"""Where requests enter vLLM: settings are loaded, keys checked and resolved, cache keys kept apart.

installation   what of vLLM is wrapped
front_end      resolves a request's keys, so that a fault is the client's 400 or 404
engine_core    resolves them again, behind every front end, and salts the cache: what it resolves is what is applied
refusals       what vLLM would answer without what was asked
core_proof     every engine core proves its ablations before it is ready
"""
