"""The model classes that vLLM builds, and the worker around them.

registration           the names under which vLLM finds them
wrapper                the in-tree model with an edit behind every decoder block
edited_modules         blocks and writers behind which an edit is put
transformers_backend   classes that vLLM runs by the code of transformers
lora_layers            LoRA beside edited linear maps
runner_v1, runner_v2   what each model runner tells the tables before a step
worker                 what the front end asks of every worker
watch, proof           what is left of a subspace where it was removed: the proof of every start
"""
