"""What an edit costs in capability: lm-evaluation-harness on a model and its edited variants, paired by document."""
