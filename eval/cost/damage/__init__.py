"""What an intervention does to a model where nothing should change: on harmless prompts and on running text."""
