"""Runs of OPT-1.3B on an H100 64 GB, vLLM: an excerpt of the data repository of Mind the Memory Gap (arXiv 2503.08311).

github.com/FerranAgulloLopez/vLLMBatchingMemoryGap, Apache-2.0, benchmarks/definitive_results: `background` (one
instance) and `replication` (two and four under MPS), ShareGPT, 2,000 requests. Throughput is in prompt and generated
tokens per second, the ITL a mean in ms; joules per token are the mean power of their nvidia-smi logs times the
duration over the same tokens.
"""

BACKGROUND = [
    (1, 381.406, 3.62333, 0.672328),
    (2, 730.832, 3.78188, 0.342417),
    (4, 1399.16, 3.93335, 0.187786),
    (8, 2400.43, 4.56628, 0.10682),
    (16, 4042.34, 5.38138, 0.0710237),
    (32, 5734.14, 7.50959, 0.0483984),
    (64, 8143.69, 10.3958, 0.0406971),
    (96, 9032.79, 13.8938, 0.0358086),
    (128, 9506.93, 17.3461, 0.0345416),
    (192, 10317.7, 23.5787, 0.034155),
    (256, 10809.8, 29.2727, 0.0308974),
    (384, 11144.6, 40.876, 0.0308534),
    (512, 11203.6, 52.1108, 0.0307979),
    (640, 11298.4, 61.6774, 0.0309297),
    (768, 11050.1, 72.889, 0.031236),
]
"""(max_num_seqs, throughput, ITL, joules per token) of one instance."""

REPLICATION = [
    (1, 96, 9120.9, 13.7753, 0.0358614),
    (1, 256, 10870.9, 29.2637, 0.0313388),
    (1, 768, 10967.6, 73.7728, 0.0296728),
    (2, 96, 12313.9, 18.9834, 0.033761),
    (2, 256, 14669.5, 37.0729, 0.0304924),
    (4, 96, 13172.4, 31.5201, 0.03495),
]
"""(replicas, max_num_seqs of each, throughput, ITL, joules per token); without four of 256, which preempted."""
