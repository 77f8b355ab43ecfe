"""Replays a request trace at an OpenAI-compatible endpoint: the real load behind a capture. `fib replay` calls it.

vLLM's own command (`vllm bench serve --dataset-name timed_trace`) needs hashes of prompt blocks in the trace, a
tokenizer and vLLM itself beside the client. The Azure traces have no hashes, and the client may run on another machine.
The function by which that command sends a request can be used here: see vllm_client, which says why it is not the
default and why SGLang's does not serve.
"""
