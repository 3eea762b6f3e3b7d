"""The offline commands, one file a noun, with the options that several share (`options`), the choice of what runs a model
(`engines`) and a file of ours as a table or JSON (`summary`). Nothing imports a command but the group that names it."""
