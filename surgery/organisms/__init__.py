"""Model organisms of refusal: tiny chat models, trained from scratch, with a planted refusal mechanism.

Importing this package loads nothing heavy; `surgery.organisms.release.write_organism` makes a folder to work with.
"""

ORGANISMS = ("single", "distributed", "plain")
