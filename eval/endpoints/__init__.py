"""The way to servers that answer or judge: what is sent and what an error means is the user's, all else is here.

address         what is known of a server before it is asked
replica         one address: the wire, and whether it is out of use
pool            several: the least loaded first, paused as they ask, left out after faults and taken back
concurrency, quota, spending   how much at once, a minute, in all
served_models   what a server says it serves, and which of it a condition needs
completions     what is asked of one in token ids
servers         replicas that answer the prompts of a run
"""
