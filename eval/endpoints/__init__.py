"""The way to servers that answer or judge.

address         what is known of a server before it is asked
served_models   what a server says it serves
replicas, servers   addresses that answer prompts: least loaded first, one that dies left out
judge_client, judge_dispatch, judge_replica   addresses that judge: retries, quotas, out and back
concurrency, quota, spending   how much at once, a minute, in all
"""
