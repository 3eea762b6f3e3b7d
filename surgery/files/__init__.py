"""What is written to disk: whole or not at all, and continued where a writer was killed.

artifacts   safetensors files of a named kind with one JSON header; JSON files; digests
shards      safetensors files at the level of bytes
folders     folders made beside their target and renamed
resuming    folders written in steps, one file each
rowfile     append-only rows of one dataclass, a torn last line mended
"""
