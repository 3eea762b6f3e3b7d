"""What an engine and a request may ask, read and checked without a device.

modules           an engine's ablations and their limits, as the rest knows them
module_files      one module, read from its file and checked against the model
module_options    its form on the command line
engine_settings   from `--additional-config '{"ablation": {...}}'` to all of them
engine_parts      parts of vLLM beside which the stream is not ours to edit
request           one request's intervention, from a client's keys to what the workers apply
capture           the same for captured activations
"""
