"""What an edit costs: on harmless prompts and running text (`damage`), and on benchmarks (`benchmark`)."""
