"""From activations to refusal vectors, and what is said of them.

extraction      a model and a contrast set in, vectors with statistics out
estimators      difference of means and its relatives
fitting         one layer's vector and the statistics that need every prompt
selection       which vector controls refusal, by the next token
separability    Cohen's d, AUROC, reliability
cosines, angles, tier_angles   how vectors and subspaces of layers, files and tiers lie to each other
angle_table     the angles of tiers as text; loads no torch
figures         vectors, cosines and effect sizes drawn
"""
