"""The commands of eval, one file a noun. Nothing imports a command but `eval.cli`, which names them."""
