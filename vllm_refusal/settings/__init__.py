"""An engine's ablation settings, from `--additional-config '{"ablation": {...}}'` to what requests are admitted under.

`loading` reads an engine's settings, each module through `module_files`, into the `modules` that it holds; `request` says
what one request makes of them. Nothing here imports vllm.
"""
