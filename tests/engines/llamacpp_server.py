"""llama.cpp's server with a small model of random weights: `python llamacpp_server.py MODEL FILE PORT THREADS`.

The package xllamacpp holds the server's own code as `llama-server` does, and nothing has to be compiled.
"""

import sys
import threading
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

from pytest_slmperf.core.shapes import SHAPES, tensors
from pytest_slmperf.engines.weights import draw

NAMES = {
    "attention.norm": "attn_norm",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "attention.out": "attn_output",
    "ffn.norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
}
"""What llama.cpp calls the tensors of a layer."""
SHAPE = replace(SHAPES["tiny-24x32"], layers=2, hidden=128, heads=2, kv_heads=2, head_dim=64, ffn=512, vocabulary=1_024)
"""As small as `tiny-2x128`, and of a family that llama.cpp knows: OPT is none."""
SLOTS = 64
"""Requests that run at once."""
CONTEXT = 2_048
"""Of one request; llama.cpp shares its cache out among the slots."""


def write(shape, path):
    """A Qwen3 with our random weights, and a vocabulary of made-up words."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-6)
    words = ["<unk>", "<s>", "</s>", *(f"▁w{token}" for token in range(3, shape.vocabulary))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(words) - len(kinds)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    for tensor in tensors(shape):
        values = draw(shape, tensor, "float32")
        for name, part in named(shape, tensor.name, values):
            writer.add_tensor(name, np.ascontiguousarray(part))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named(shape, name, values):
    """A tensor by llama.cpp's name, or several where ours is one."""
    if name == "embeddings":
        return [("token_embd.weight", values)]
    if name == "norm.weight":
        return [("output_norm.weight", values)]
    _, layer, *rest, kind = name.split(".")
    part = ".".join(rest)
    if part == "attention.qkv":
        queries, others = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        parts = np.split(values, [queries, queries + others])
        return [(f"blk.{layer}.attn_{one}.{kind}", each) for one, each in zip("qkv", parts, strict=True)]
    return [(f"blk.{layer}.{NAMES[part]}.{kind}", values)]


def serve(model, path, port, threads):
    """Serve until the process is ended."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {model}
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.endpoint_metrics = True
    _server = xllamacpp.Server(params)  # it serves for as long as this lives
    threading.Event().wait()


if __name__ == "__main__":
    name, file, port, threads = sys.argv[1:]
    if not Path(file).exists():
        write(SHAPE, f"{file}.part")
        Path(f"{file}.part").rename(file)
    serve(name, file, int(port), int(threads))
