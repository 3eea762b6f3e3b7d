"""The OpenAI-compatible server: stock vLLM with named ablations.

launch              the command line, the proof before it listens
startup             a signal while vLLM starts its processes
names               ablations as models: listed, chosen, echoed
endpoints           routes of ours beside vLLM's
metrics             counters on vLLM's own /metrics
runtime_ablations   loading and unloading while it runs; allowed_folder: from where
chat_date           the date that chat templates are told
body_limit, invocations   what a body may weigh; the route that drops keys
"""
