"""Hugging Face transformers on torch, on CPUs and on CUDA GPUs. The only file that imports either.

The decode loop is the library's own `generate`, with a static cache: a batch of requests goes in as one static batch,
prompts padded on the left, and is decoded greedily until the longest of them is done. Nothing is fetched from a hub.
"""

import json
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, Request, Served
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.shapes import Family, Shape, Tensor, shape_of, tensors
from pytest_slmperf.engines import weights
from pytest_slmperf.engines.options import options_of, refuse_unknown
from pytest_slmperf.engines.planted import is_replica

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
ATTENTION = ("eager", "sdpa", "flash_attention_2")
"""Implementations that come with torch or a package of its own; others would be fetched from a hub."""
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
SHARDS = "*.index.json"
ASSUMED_CONTEXT = 2_048
"""Context of a model whose config.json says nothing of it."""
LONGEST_ERROR = 400
"""Characters that are repeated of what transformers says: it may list every architecture that there is."""
COMPILED_SHAPES = 256
"""Batch sizes and cache lengths that one launch may compile for; torch's own limit is 8, and then compiles no more."""
KERNEL_VARIABLES = frozenset(
    {
        "ATEN_CPU_CAPABILITY",
        "CUBLAS_WORKSPACE_CONFIG",
        "CUDA_LAUNCH_BLOCKING",
        "DNNL_DEFAULT_FPMATH_MODE",
        "DNNL_MAX_CPU_ISA",
        "MKL_ENABLE_INSTRUCTIONS",
        "NVIDIA_TF32_OVERRIDE",
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "ONEDNN_MAX_CPU_ISA",
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "TORCH_BLAS_PREFER_CUBLASLT",
    }
)
"""Environment variables by which torch and its libraries choose kernels and memory: recorded where they are set."""

NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says of memory that ran out where it has no class of its own for that: the host's, and a GPU's beside its
allocator.
"""

Library = Any
"""torch or transformers, imported only when an engine starts; to a type checker without them they have no types."""
Ids = Any
"""A torch tensor of token ids."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `EngineSpec.options` may hold for this engine."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a CUDA GPU where torch sees one."""
    device_index: int = 0
    attention: str = "auto"
    """`eager`, `sdpa`, `flash_attention_2`, or `auto`: what transformers takes for the model."""
    compile: bool = False
    """Compile the decode step, for each batch size and cache length anew. On a GPU only."""
    wrong_replica: int | None = None
    """Of a pool, the replica (counted from 1) in which one layer's weights change places: a planted fault."""


def create(spec: EngineSpec) -> "Transformers":
    """The engine of a spec, not started. Raises EngineUnavailable for options or a dtype that it doesn't know."""
    return Transformers(spec)


def _libraries() -> tuple[Library, Library]:
    """torch and transformers, told that there is no hub and nobody to read progress bars."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    try:
        import torch  # noqa: PLC0415 - making an engine is free of it, only starting one needs it
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine transformers cannot be imported ({error}): pip install 'pytest-slmperf[transformers]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


class Transformers:
    """One loaded model on one device, one batch at a time."""

    def __init__(self, spec: EngineSpec, *, cache: Path | None = None) -> None:
        self._spec = spec
        self._options = options_of(Options, spec)
        refuse_unknown(spec, "device", self._options.device, DEVICES)
        refuse_unknown(spec, "attention", self._options.attention, ("auto", *ATTENTION))
        refuse_unknown(spec, "dtype", spec.dtype, DTYPES)
        self._cache = cache
        self._torch: Library = None
        self._transformers: Library = None
        self._model: Library = None
        self._device = "cpu"
        self._context = 0
        self._ready: _Ready | None = None

    def start(self) -> EngineFacts:
        """Load the model, and make its random weights first where nobody did before. Blocks, for minutes if it's large.

        Raises EngineUnavailable if a package, the device or the model cannot be had.
        """
        self._torch, self._transformers = _libraries()
        self._device = self._chosen_device()
        self._torch.set_num_threads(self._spec.threads)
        if self._device == "cuda":  # or what asks for no GPU in particular would take half a gigabyte of the first
            self._torch.cuda.set_device(self._options.device_index)
        shape = None if weights.is_path(self._spec.model) else shape_of(self._spec.model)
        folder = own_model(Path(self._spec.model).expanduser()) if shape is None else random_model(shape, self._cache)
        self._model = self._loaded(folder, shape)
        if is_replica(self._options.wrong_replica):
            self._plant_wrong_layer()
        self._set_up_generation()
        configuration = self._model.config.get_text_config()
        self._context = getattr(configuration, "max_position_embeddings", None) or ASSUMED_CONTEXT
        if shape is not None:
            self._context = shape.context
        return EngineFacts(
            version=f"{self._transformers.__version__}, torch {self._torch.__version__}",
            device=self._device,
            dtype=str(self._model.dtype).removeprefix("torch."),
            weights="random" if shape else weights.content_name(model_files(folder), cache=self._cache),
            context_tokens=self._context,
            vocabulary=configuration.vocab_size,
            settings=self._settings(),
        )

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Serve the requests as one static batch and block until the last token.

        A request that ends before the longest stays in the batch until that one ends; what is generated for it
        meanwhile is not counted. With `observe`, each step hands its tokens to a streamer, which stamps them.
        Raises MemoryError where the device's memory doesn't hold the batch, and EngineFailed if a request exceeds the
        context, and if torch or transformers raise or answer with another length.
        """
        ready = self._made_ready(batch)
        stamps = _Stamps() if observe else None
        cuda = self._torch.cuda if self._device == "cuda" else None
        if cuda:
            cuda.reset_peak_memory_stats(self._model.device)
        started_ns = time.monotonic_ns()
        answered = self._generated(ready, streamer=stamps)
        ended_ns = time.monotonic_ns()
        steps = answered.shape[1] - ready.prompts.shape[1]
        if steps != ready.longest or (stamps and len(stamps.token_ns) != steps):
            raise EngineFailed(f"transformers generated {steps} tokens instead of {ready.longest}")
        asked = tuple(request.output_tokens for request in batch)
        token_ns = tuple(tuple(stamps.token_ns[:tokens]) for tokens in asked) if stamps else None
        peak = cuda.max_memory_allocated(self._model.device) if cuda else None
        return Served(started_ns, ended_ns, asked, token_ns, peak)

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
        """The tokens of each answer to a static batch. One whose highest score is no finite number is NOT_FINITE.

        Raises what `serve` does.
        """
        ready = self._made_ready(batch)
        finite: list[list[bool]] = []

        def look(_: Ids, scores: Library) -> Library:
            finite.append(self._torch.isfinite(scores.amax(dim=-1)).tolist())  # a maximum of what isn't finite isn't
            return scores

        answered = self._generated(ready, logits_processor=self._transformers.LogitsProcessorList([look]))
        told = answered[:, ready.prompts.shape[1] :].tolist()
        asked = [request.output_tokens for request in batch]
        return tuple(
            tuple(token if seen else NOT_FINITE for token, seen in zip(tokens, whether, strict=True))[:count]
            for count, tokens, whether in zip(asked, told, zip(*finite, strict=True), strict=True)
        )

    def _generated(self, ready: "_Ready", **more: Any) -> Ids:  # noqa: ANN401 - what generate takes
        """Prompts and answers, once the device has made them. Raises MemoryError and EngineFailed."""
        try:
            ready.kept.reset()
            answered = self._model.generate(
                ready.prompts.to(self._model.device),
                attention_mask=ready.mask.to(self._model.device),
                past_key_values=ready.kept,
                max_new_tokens=ready.longest,
                **more,
            )
            if self._device == "cuda":
                self._torch.cuda.synchronize(self._model.device)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise _translated(error, f"transformers failed on a batch of {len(ready.batch)}") from error
        return answered

    def stop(self) -> None:
        """Free the model's memory."""
        self._model = self._ready = None

    def _made_ready(self, batch: Sequence[Request]) -> "_Ready":
        """What generate is given for a batch; kept while the same one is served again and again."""
        if self._model is None:
            raise EngineFailed("transformers was asked to serve before it was started, or after it was stopped")
        if self._ready is None or self._ready.batch is not batch:
            self._check_fit(batch)
            self._ready = None  # its cache goes before the next one comes
            if self._device == "cuda":
                self._torch.cuda.empty_cache()  # or a batch could fail for what an earlier one left in pieces
            self._ready = _ready(batch, self._model, self._torch, self._transformers)
        return self._ready

    def _check_fit(self, batch: Sequence[Request]) -> None:
        if not batch:
            raise EngineFailed("transformers was asked to serve an empty batch")
        prompt = max(len(request.prompt) for request in batch)
        output = max(request.output_tokens for request in batch)
        if prompt + output > self._context:  # of unlike requests, too: all are padded to the longest
            raise EngineFailed(
                f"a batch of {prompt} prompt and {output} output tokens exceeds the context of {self._context} tokens"
            )

    def _chosen_device(self) -> str:
        options, cuda = self._options, self._torch.cuda
        seen = cuda.device_count() if options.device != "cpu" and cuda.is_available() else 0
        device = options.device if options.device != "auto" else "cuda" if seen else "cpu"
        if device == "cuda" and options.device_index >= seen:
            raise EngineUnavailable(
                f"transformers cannot use the device cuda:{options.device_index}: torch {self._torch.__version__} "
                f"sees {seen} CUDA GPUs"
            )
        if device == "cpu" and options.compile:
            raise EngineUnavailable("transformers compiles for a GPU only: leave out compile, or choose device=cuda")
        return device

    def _loaded(self, folder: Path, shape: Shape | None) -> Library:
        """The model, ready to generate. Raises EngineUnavailable in the library's words."""
        transformers = self._transformers
        attention = {} if self._options.attention == "auto" else {"attn_implementation": self._options.attention}
        try:
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                **({} if shape is None else {"config": configuration(shape, transformers)}),
                **attention,
                dtype=getattr(self._torch, self._spec.dtype),
                generation_config=transformers.GenerationConfig(),  # a folder's own may sample, or stop early
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
            on = f"cuda:{self._options.device_index}" if self._device == "cuda" else "cpu"
            loaded = model.eval().to(on)
        except _load_errors() as error:
            words = shorten(str(error) or type(error).__name__, LONGEST_ERROR)
            raise EngineUnavailable(f"transformers cannot load {folder.name}: {words}") from error
        if lacking := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
            # It would go on, with weights drawn anew in each process.
            raise EngineUnavailable(
                f"transformers cannot load {folder.name}: of the tensors that its config.json asks for, {len(lacking)} "
                f"are missing or of another shape: {lacking[0]}, …"
            )
        return loaded

    def _plant_wrong_layer(self) -> None:
        """Turn round the rows of all matrices of a layer in the middle."""
        layers = self._model.config.get_text_config().num_hidden_layers
        for name, parameter in self._model.named_parameters():
            if f".layers.{layers // 2}." in name and parameter.dim() > 1:
                parameter.data = parameter.data.flip(0).contiguous()

    def _set_up_generation(self) -> None:
        """Greedy, without an end token: nothing but the asked length ends an answer."""
        transformers, compiled = self._transformers, self._options.compile
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            pad_token_id=0,
            disable_compile=not compiled,
            compile_config=transformers.CompileConfig(dynamic=False) if compiled else None,
        )
        if compiled:  # each shape has its own code, whatever was measured before it; never tacitly none
            dynamo = self._torch._dynamo.config  # noqa: SLF001 - its documented place
            dynamo.recompile_limit = COMPILED_SHAPES
            dynamo.fail_on_recompile_limit_hit = True

    def _settings(self) -> Mapping[str, str | int | float | bool]:
        settings: dict[str, str | int | float | bool] = {
            "threads": self._spec.threads,
            "attention": self._model.config.get_text_config()._attn_implementation,  # noqa: SLF001 - said nowhere else
            "cache": "static",
            "compile": self._options.compile,
        }
        return settings | {name: os.environ[name] for name in sorted(KERNEL_VARIABLES & os.environ.keys())}


class _Stamps:
    """A streamer: generate puts the prompts once, and then the tokens of each step as soon as the host has them."""

    def __init__(self) -> None:
        self.token_ns: list[int] = []
        self._prompted = False

    def put(self, _: Ids) -> None:
        """Stamp a step."""
        if self._prompted:
            self.token_ns.append(time.monotonic_ns())
        self._prompted = True

    def end(self) -> None:
        """Nothing is held back."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch as generate takes it."""

    batch: Sequence[Request]
    prompts: Ids
    mask: Ids
    """0 where a prompt is padded."""
    kept: Any
    """The static cache: its place in memory stays the same from batch to batch, as compiled code expects."""
    longest: int


def _ready(batch: Sequence[Request], model: Library, torch: Library, transformers: Library) -> _Ready:
    width = max(len(request.prompt) for request in batch)
    longest = max(request.output_tokens for request in batch)
    padding = [width - len(request.prompt) for request in batch]
    prompts = [[0] * pad + list(request.prompt) for pad, request in zip(padding, batch, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in padding]
    # generate's own cache would be as long as the longest of all batches before: a batch's speed would hang on them.
    kept = transformers.StaticCache(
        config=model.config.get_text_config(decoder=True), max_cache_len=width + longest - 1
    )
    return _Ready(batch, torch.tensor(prompts), torch.tensor(mask), kept, longest)


def _translated(error: Exception, failed: str) -> Exception:
    """Memory that ran out, of a device or of the host, as MemoryError; all else as EngineFailed."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or any(words in str(error) for words in NO_MEMORY):
        return MemoryError(f"{failed}: {error}")
    return EngineFailed(f"{failed}: {error or type(error).__name__}")


def _load_errors() -> tuple[type[Exception], ...]:
    """What loading a model that is damaged, unknown or too large raises."""
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415 - here and below: only after torch
    from safetensors import SafetensorError  # noqa: PLC0415

    python = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError, EOFError)
    return (*python, MemoryError, UnpicklingError, struct.error, SafetensorError, StrictDataclassError)


# A folder with a model of the user's own.


def own_model(folder: Path) -> Path:
    """The folder, if it can hold a model. Raises EngineUnavailable naming what is missing."""
    if not folder.is_dir():
        raise EngineUnavailable(f"there is no folder {folder}; a model is one, with config.json in it")
    if not (folder / "config.json").is_file():
        raise EngineUnavailable(f"{folder / 'config.json'} is missing: this is no model of transformers")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
        raise EngineUnavailable(f"{folder} has neither {' nor '.join(WEIGHT_FILES)}: there are no weights in it")
    return folder


def model_files(folder: Path) -> list[Path]:
    """The files that say what the model computes."""
    return [folder / "config.json", *(path for pattern in (*WEIGHT_FILES, SHARDS) for path in folder.glob(pattern))]


# Random models.


def random_model(shape: Shape, cache: Path | None = None) -> Path:
    """The folder of a model of this shape with random weights, made where it isn't there yet."""
    dtype = weights.storage_dtype(shape)
    size = sum(tensor.size for tensor in tensors(shape)) * (4 if dtype == "float32" else 2)
    return weights.kept_model(
        f"{shape.name}-safetensors-{dtype}",
        bytes_needed=size,
        write=lambda folder: write_weights(shape, dtype, folder),
        cache=cache,
    )


def write_weights(shape: Shape, dtype: str, folder: Path) -> None:
    """Write random weights under the names that transformers gives them, one layer in memory at a time."""
    from safetensors.numpy import save_file  # noqa: PLC0415

    places: dict[str, str] = {}
    for number, (_, layer) in enumerate(groupby(tensors(shape), key=_layer)):
        file = f"model-{number:05}.safetensors"
        parts = dict(part for tensor in layer for part in _parts(shape, tensor, weights.draw(shape, tensor, dtype)))
        save_file(parts, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(parts, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def _layer(tensor: Tensor) -> str:
    """The layer that a tensor belongs to, or its name where it belongs to none."""
    return tensor.name.split(".")[1] if tensor.name.startswith("layers.") else tensor.name


def configuration(shape: Shape, transformers: Library) -> Library:
    """The model's configuration, with the keys of its published config.json."""
    fields: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": True,
    }
    if shape.family is Family.OPT:
        fields |= {
            "ffn_dim": shape.ffn,
            "word_embed_proj_dim": shape.embedding_width,
            "do_layer_norm_before": shape.norm_first,
        }
    else:
        fields |= {
            "intermediate_size": shape.ffn,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "rope_theta": shape.rope_base,
            "rms_norm_eps": 1e-5 if shape.family is Family.LLAMA else 1e-6,
        }
    if shape.long_rope:
        fields["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8_192,
        }
    if _is_gemma(shape):
        fields["query_pre_attn_scalar"] = shape.head_dim
    if shape.family is Family.GEMMA3:
        windows = [shape.window_of(layer) for layer in range(shape.layers)]
        fields |= {
            "sliding_window": shape.window,
            "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
            "rope_local_base_freq": 10_000.0,
        }
    model_type = "gemma3_text" if shape.family is Family.GEMMA3 else str(shape.family)
    return transformers.AutoConfig.for_model(model_type, **fields)


def write_configuration(shape: Shape, folder: Path) -> None:
    """Write the config.json of a shape's model into its folder, for those who load it by its path.

    Raises EngineUnavailable without torch or transformers.
    """
    _, transformers = _libraries()
    made = configuration(shape, transformers)
    made.architectures = [transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[made.model_type]]
    made.save_pretrained(folder)


def _is_gemma(shape: Shape) -> bool:
    return shape.family in {Family.GEMMA2, Family.GEMMA3}


_OPT_PLACES = {
    "embeddings": "embed_tokens.weight",
    "positions": "embed_positions.weight",
    "norm": "final_layer_norm",
    "attention.norm": "self_attn_layer_norm",
    "attention.out": "self_attn.out_proj",
    "ffn.norm": "final_layer_norm",
    "ffn.up": "fc1",
    "ffn.down": "fc2",
}
_PLACES = {
    "embeddings": "embed_tokens.weight",
    "norm": "norm",
    "attention.norm": "input_layernorm",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.out": "self_attn.o_proj",
    "ffn.norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
_PLACES_WITH_POST_NORMS = {
    "attention.post_norm": "post_attention_layernorm",
    "ffn.norm": "pre_feedforward_layernorm",
    "ffn.post_norm": "post_feedforward_layernorm",
}


def _parts(shape: Shape, tensor: Tensor, drawn: weights.Weights) -> Iterator[tuple[str, weights.Weights]]:
    """The names under which transformers looks for a tensor, with its values; queries, keys and values on their own."""
    places = _OPT_PLACES if shape.family is Family.OPT else _PLACES
    if _is_gemma(shape):
        places = places | _PLACES_WITH_POST_NORMS
    prefix = "model.decoder." if shape.family is Family.OPT else "model."
    part, _, attribute = tensor.name.rpartition(".")
    if part.startswith("layers."):
        _, index, block, kind = part.split(".")
        prefix, part = f"{prefix}layers.{index}.", f"{block}.{kind}"
    if part == "attention.qkv":
        rows = [shape.heads * shape.head_dim, *[shape.kv_heads * shape.head_dim] * 2]
        for name, end, count in zip("qkv", (rows[0], rows[0] + rows[1], sum(rows)), rows, strict=True):
            yield f"{prefix}self_attn.{name}_proj.{attribute}", drawn[end - count : end]
    elif not part:
        yield prefix + places[attribute], drawn
    else:
        yield f"{prefix}{places.get(part, part)}.{attribute}", drawn
