"""What an engine and a request may ask, read and checked without a device.

modules        an engine's ablations and their limits, as the rest knows them
module_files   one module, read from its file and checked against the model
loading        from `--additional-config '{"ablation": {...}}'` to all of them
options        their form on the command line
request        one request's intervention, from a client's keys to what the workers apply
capture        the same for captured activations
engine_parts, speculation   parts of vLLM beside which the stream is not ours to edit
"""
