"""What is asked of a model: conditions (`conditions`), and those of one run with the engine modules they need (`plan`)."""
