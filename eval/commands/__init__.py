"""The commands of eval, one file a noun, with the options that generating (`generation_options`) and judging commands share
(`judge_options`). Nothing imports a command but `eval.cli`, which names them."""
