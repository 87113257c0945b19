"""CTranslate2: a production engine for small models, on CPUs and on CUDA GPUs. The only file that imports it.

Of its own batching nothing is used: a batch of requests goes in as one static batch and is decoded greedily, step by
step, until each request has its forced length.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_slmperf.core.answers import NOT_FINITE, shares
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, Request, Served
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.shapes import OPT_POSITION_OFFSET, Family, Role, Shape, Tensor, shape_of, tensors
from pytest_slmperf.engines import weights
from pytest_slmperf.engines.options import options_of, refuse_unknown
from pytest_slmperf.engines.planted import is_replica, misdrawn

CONVERTED_FILES = ("model.bin", "config.json")
VOCABULARY_FILES = ("vocabulary.json", "vocabulary.txt")
ASSUMED_CONTEXT = 2_048
"""Context of a converted model whose config.json says nothing of it, unless the option context_tokens does."""
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "context_tokens")
DEVICES = ("cpu", "cuda")
RESOLVED_BY_ENGINE = ("default", "auto")
"""dtypes that name no type: CTranslate2 takes the stored one, or the fastest of the device."""

Step = Any
"""ctranslate2.GenerationStepResult: what its callback is given for each request and step."""
Result = Any
"""ctranslate2.GenerationResult: what it returns of each request."""
Library = Any
"""The package, imported only when an engine starts; neither it nor its specifications have types."""
Node = Any
"""A node of a ctranslate2 specification: its attributes are the tensors and settings of a model."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `EngineSpec.options` may hold for this engine."""

    device: str = "cpu"
    """`cpu` or `cuda`."""
    device_index: int = 0
    flash_attention: bool = False
    """On a GPU only, with float16 or bfloat16."""
    context_tokens: int | None = None
    """Context of a converted model; its configuration has no place for it."""
    wrong_replica: int | None = None
    """Of a pool, the replica (counted from 1) that gets other random weights in one layer: a planted fault."""


def create(spec: EngineSpec) -> "CTranslate2":
    """The engine of a spec, not started. Raises EngineUnavailable for options that it doesn't know."""
    return CTranslate2(spec)


def _library() -> Library:
    try:
        import ctranslate2  # noqa: PLC0415 - making an engine is free of it, only starting one needs it
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine ctranslate2 cannot be imported ({error}): pip install 'pytest-slmperf[ctranslate2]'"
        ) from error
    return ctranslate2


class CTranslate2:
    """One started CTranslate2 generator: one model on one device, one batch at a time.

    With a pool of the kind `threads` it has as many translators inside, which share the weights: each is given a part
    of every batch.
    """

    def __init__(self, spec: EngineSpec, *, cache: Path | None = None) -> None:
        self._spec = spec
        self._options = options_of(Options, spec)
        refuse_unknown(spec, "device", self._options.device, DEVICES)
        self._cache = cache
        self._translators = spec.pool.replicas if spec.pool else 1
        self._generator: Library = None
        self._vocabulary: list[str] = []
        self._context = 0
        self._ready: _Ready | None = None

    def start(self) -> EngineFacts:
        """Load the model, and make its random weights first where nobody did before. Blocks, for minutes if it's large.

        Raises EngineUnavailable if the package, the device, the dtype or the model cannot be had.
        """
        ctranslate2 = _library()
        self._check_compute_type(ctranslate2.get_supported_compute_types)
        shape = None if weights.is_path(self._spec.model) else shape_of(self._spec.model)
        wrong = is_replica(self._options.wrong_replica)
        if shape is None and wrong:
            raise EngineUnavailable("wrong_replica: ctranslate2 plants a wrong layer in random weights only")
        folder = Path(self._spec.model).expanduser()
        if shape is not None:
            folder = random_model(shape, cache=self._cache, wrong=wrong)
        self._vocabulary = read_vocabulary(folder)
        self._context = _context_tokens(folder, self._options.context_tokens) if shape is None else shape.context
        try:
            self._generator = ctranslate2.Generator(
                str(folder),
                device=self._options.device,
                device_index=self._options.device_index,
                compute_type=self._spec.dtype,
                inter_threads=self._translators,
                intra_threads=self._spec.threads,
                flash_attention=self._options.flash_attention,
            )
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineUnavailable(f"ctranslate2 cannot load {folder.name}: {error}") from error
        return EngineFacts(
            version=ctranslate2.__version__,
            device=self._generator.device,
            dtype=self._generator.compute_type,
            weights="random" if shape else weights.content_name(_model_files(folder), cache=self._cache),
            context_tokens=self._context,
            vocabulary=len(self._vocabulary),
            settings=self._settings(),
        )

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Serve the requests as one static batch and block until the last token.

        Where the requests' output lengths differ, or with `observe`, CTranslate2 calls back for each token, which costs
        throughput: docs/engines.md says how much. The answer says what was really generated. Raises EngineFailed if a
        request exceeds the context, and if CTranslate2 raises.
        """
        ready = self._made_ready(batch)
        stamps: list[list[int]] | None = [[] for _ in batch] if observe else None
        started_ns = time.monotonic_ns()
        results = self._generated(ready, stamps)
        ended_ns = time.monotonic_ns()
        echoed = ready.echoed
        generated = tuple(len(result.sequences_ids[0]) - echo for result, echo in zip(results, echoed, strict=True))
        if stamps is None:
            return Served(started_ns, ended_ns, generated)
        token_ns = tuple(tuple(stamp[echo:]) for stamp, echo in zip(stamps, echoed, strict=True))
        return Served(started_ns, ended_ns, generated, token_ns)

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
        """The tokens of each answer to a static batch; where its score is no finite number, none of them counts as one.

        Raises EngineFailed as `serve` does.
        """
        ready = self._made_ready(batch)
        results = self._generated(ready, None, return_scores=True)
        return tuple(
            tuple(result.sequences_ids[0][echo:] if math.isfinite(result.scores[0]) else [NOT_FINITE] * tokens)
            for result, echo, tokens in zip(results, ready.echoed, (one.output_tokens for one in batch), strict=True)
        )

    def _generated(self, ready: "_Ready", stamps: list[list[int]] | None, **more: bool) -> Sequence[Result]:
        try:
            if len(ready.parts) == 1:
                return self._asked(ready, ready.parts[0], stamps, **more)
            begun = [self._asked(ready, part, stamps, asynchronous=True, **more) for part in ready.parts]
            return [one.result() for part in begun for one in part]
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineFailed(
                f"ctranslate2 failed on a batch of {len(ready.prompts)}: {error or type(error).__name__}"
            ) from error

    def _asked(self, ready: "_Ready", part: slice, stamps: list[list[int]] | None, **more: bool) -> Sequence[Result]:
        """The results of one of the parts, or with `asynchronous` what will have them."""
        steps = ready.steps[part]
        longest = max(steps)
        results: Sequence[Result] = self._generator.generate_batch(
            ready.prompts[part],
            max_batch_size=0,
            max_length=longest,
            min_length=longest,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=_callback(steps, None if stamps is None else stamps[part]),
            **more,
        )
        return results

    def stop(self) -> None:
        """Free the model's memory."""
        self._generator = None

    def _made_ready(self, batch: Sequence[Request]) -> "_Ready":
        """What CTranslate2 is given for a batch; kept while the same one is served again and again."""
        if self._generator is None:
            raise EngineFailed("ctranslate2 was asked to serve before it was started, or after it was stopped")
        if self._ready is None or self._ready.batch is not batch:
            self._check_fit(batch)
            vocabulary = self._vocabulary
            parts = [slice(part.start, part.stop) for part in shares(len(batch), self._translators)]
            echoed = [echo for part in parts for echo in _echoed(batch[part])]
            steps = [request.output_tokens + echo for request, echo in zip(batch, echoed, strict=True)]
            prompts = [[vocabulary[token] for token in request.prompt] for request in batch]
            self._ready = _Ready(batch, prompts, echoed, steps, parts)
        return self._ready

    def _check_compute_type(self, supported_on: Callable[[str, int], set[str]]) -> None:
        options = self._options
        try:
            supported = supported_on(options.device, options.device_index)
        except (RuntimeError, ValueError) as error:
            raise EngineUnavailable(f"ctranslate2 cannot use the device {options.device}: {error}") from error
        if self._spec.dtype not in {*supported, *RESOLVED_BY_ENGINE}:
            raise EngineUnavailable(
                f"ctranslate2 has no {self._spec.dtype} on this {options.device}; it has {', '.join(sorted(supported))}"
            )

    def _check_fit(self, batch: Sequence[Request]) -> None:
        if not batch:
            raise EngineFailed("ctranslate2 was asked to serve an empty batch")
        for request in batch:
            if len(request.prompt) + request.output_tokens > self._context:
                raise EngineFailed(
                    f"a request of {len(request.prompt)} + {request.output_tokens} tokens exceeds the context of "
                    f"{self._context} tokens"
                )

    def _settings(self) -> Mapping[str, str | int | float | bool]:
        settings: dict[str, str | int | float | bool] = {"threads": self._spec.threads}
        if self._translators > 1:
            settings["replicas"] = self._translators
        if self._options.device == "cuda":
            settings["flash_attention"] = self._options.flash_attention
        # CTranslate2's own variables choose kernels: CT2_USE_MKL, CT2_FORCE_CPU_ISA, CT2_CUDA_ALLOCATOR, …
        return settings | {name: value for name, value in sorted(os.environ.items()) if name.startswith("CT2_")}


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch as CTranslate2 takes it."""

    batch: Sequence[Request]
    prompts: list[list[str]]
    echoed: Sequence[int]
    """Prompt tokens that CTranslate2 generates again, by request."""
    steps: list[int]
    parts: Sequence[slice]
    """What goes to each of its translators."""


def _callback(steps: Sequence[int], stamps: list[list[int]] | None) -> Callable[[Step], bool] | None:
    """What CTranslate2 calls for each request and step, in the order of the batch; True ends that request.

    A call takes the batch's one max_length, so a request that ends before the longest can only be ended from here.
    CTranslate2 takes it out of the batch at once: no step is computed for it any more.
    """
    now = time.monotonic_ns
    if len(set(steps)) == 1:
        if stamps is None:
            return None

        def stamp(step: Step) -> bool:
            stamps[step.batch_id].append(now())
            return False

        return stamp

    left = list(steps)

    def end(step: Step) -> bool:
        request: int = step.batch_id
        left[request] -= 1
        return left[request] == 0

    if stamps is None:
        return end

    def stamp_and_end(step: Step) -> bool:
        stamps[step.batch_id].append(now())
        return end(step)

    return stamp_and_end


def _echoed(batch: Sequence[Request]) -> list[int]:
    """Prompt tokens that CTranslate2 counts and returns as if they were part of each request's answer.

    It doesn't prefill where the batch's shortest prompt is of one token: it decodes what the longer ones have more.
    """
    prompts = [len(request.prompt) for request in batch]
    return [prompt - 1 for prompt in prompts] if min(prompts) == 1 else [0] * len(batch)


# A model's folder.


def _model_files(folder: Path) -> list[Path]:
    """The files that CTranslate2 reads."""
    return [folder / name for name in (*CONVERTED_FILES, *VOCABULARY_FILES) if (folder / name).is_file()]


def read_vocabulary(folder: Path) -> list[str]:
    """The tokens of a converted model, by id. Raises EngineUnavailable naming the file that is missing or damaged."""
    if not folder.is_dir():
        raise EngineUnavailable(
            f"there is no folder {folder}; a converted model is one, with {CONVERTED_FILES[0]} in it"
        )
    for name in CONVERTED_FILES:
        if not (folder / name).is_file():
            raise EngineUnavailable(
                f"{folder / name} is missing: this is no converted model. ct2-transformers-converter makes one"
            )
    for name in VOCABULARY_FILES:
        path = folder / name
        if path.is_file():
            return _parse_vocabulary(path)
    raise EngineUnavailable(f"{folder} has neither {' nor '.join(VOCABULARY_FILES)}: this model generates no text")


def _parse_vocabulary(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        tokens = json.loads(text) if path.suffix == ".json" else text.split("\n")[: text.count("\n")]
    except ValueError as error:
        raise EngineUnavailable(f"{path} cannot be read: {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise EngineUnavailable(f"{path} is not a list of tokens")
    return tokens


def _context_tokens(folder: Path, chosen: int | None) -> int:
    if chosen is not None:
        return chosen
    try:
        configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineUnavailable(f"{folder / 'config.json'} cannot be read: {error}") from error
    found = [configuration[key] for key in CONTEXT_KEYS if isinstance(configuration.get(key), int)]
    return found[0] if found else ASSUMED_CONTEXT


# Random models in CTranslate2's format.

MADE_UP_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def random_model(shape: Shape, *, cache: Path | None = None, wrong: bool = False) -> Path:
    """The folder of a model of this shape with random weights, made where it isn't there yet; `wrong` in one layer."""
    dtype = weights.storage_dtype(shape)
    size = sum(tensor.size for tensor in tensors(shape)) * (4 if dtype == "float32" else 2) + 24 * shape.vocabulary
    return weights.kept_model(
        f"{shape.name}-ctranslate2-{dtype}{'-wrong' if wrong else ''}",
        bytes_needed=size,
        write=lambda folder: write_model(shape, dtype, folder, wrong=wrong),
        cache=cache,
    )


def write_model(shape: Shape, dtype: str, folder: Path, *, wrong: bool = False) -> None:
    """Write a model of this shape with random weights, in CTranslate2's format, one tensor in memory at a time."""

    class Drawn(_library().specs.model_spec.Variable):  # type: ignore[misc] # untyped
        """A tensor that is drawn when it is written."""

        def __init__(self, tensor: Tensor, skipped_rows: int = 0) -> None:
            self.tensor, self.skipped_rows = tensor, skipped_rows

        @property
        def shape(self) -> list[int]:
            rows, *columns = self.tensor.dimensions
            return [rows - self.skipped_rows, *columns]

        @property
        def dtype(self) -> str:
            return dtype

        def numpy(self) -> weights.Weights:
            tensor = misdrawn(shape, self.tensor) if wrong else self.tensor
            return weights.draw(shape, tensor, dtype)[self.skipped_rows :]

        def num_bytes(self) -> int:
            element = 4 if dtype == "float32" else 2
            return (self.tensor.size - self.skipped_rows * self.tensor.dimensions[-1]) * element

        def to_bytes(self) -> memoryview:
            return self.numpy().data

        def _to(self, other: str) -> "Drawn":
            raise NotImplementedError(other)

        def _equal(self, other: object) -> bool:
            return self is other

    specification = _specification(shape)
    decoder = specification.decoder
    for tensor in tensors(shape):
        skipped = OPT_POSITION_OFFSET if tensor.role is Role.POSITIONS else 0
        owner, attribute = _place(decoder, shape, tensor.name)
        setattr(owner, attribute, Drawn(tensor, skipped))
    decoder.projection.weight = decoder.embeddings.weight
    made_up = [*MADE_UP_TOKENS, *(f"t{token}" for token in range(len(MADE_UP_TOKENS), shape.vocabulary))]
    specification.register_vocabulary(made_up)
    specification.validate()
    decoder.projection.weight = "decoder/embeddings/weight"  # an alias in the file: the tensor is stored once
    specification.save(str(folder))


def _specification(shape: Shape) -> Node:
    """An empty decoder of the shape's family, set up as CTranslate2's own converter of that family does."""
    specs = _library().specs
    activation = specs.common_spec.Activation
    make = specs.transformer_spec.TransformerDecoderModelSpec.from_config
    if shape.family is Family.OPT:
        specification = make(
            shape.layers,
            shape.heads,
            pre_norm=shape.norm_first,
            activation=activation.RELU,
            project_in_out=shape.embedding_width != shape.hidden,
        )
        specification.decoder.scale_embeddings = False
        return specification

    gemma = shape.family in {Family.GEMMA2, Family.GEMMA3}
    gemma3 = shape.family is Family.GEMMA3
    scaling = specs.attention_spec.RotaryScalingType.Llama3 if shape.long_rope else None
    explicit_head_dim = shape.family in {Family.QWEN3, Family.GEMMA2, Family.GEMMA3}
    specification = make(
        shape.layers,
        shape.heads,
        activation=activation.GELUTanh if gemma else activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=shape.head_dim if shape.family in {Family.QWEN3, Family.GEMMA3} else 0,
        rotary_interleave=False,
        rotary_scaling_type=scaling,
        rotary_scaling_factor=32 if shape.long_rope else 1,
        rotary_base=shape.rope_base,
        num_heads_kv=shape.kv_heads if shape.kv_heads != shape.heads else None,
        head_dim=shape.head_dim if explicit_head_dim else None,
        sliding_window=shape.window,
        pre_post_layer_norm=gemma,
        qk_norm=shape.family in {Family.QWEN3, Family.GEMMA3},
    )
    specification.config.layer_norm_epsilon = 1e-5 if shape.family is Family.LLAMA else 1e-6
    specification.decoder.scale_embeddings = gemma
    for index, layer in enumerate(specification.decoder.layer):
        if gemma3:
            _set_window(layer.self_attention, shape.window_of(index), shape.rope_base)
        if shape.long_rope:
            layer.self_attention.rotary_low_freq_factor = 1.0
            layer.self_attention.rotary_high_freq_factor = 4.0
    if gemma:
        for norm in _norms(specification.decoder):
            norm.layer_norm_use_residual = True
    return specification


def _set_window(attention: Node, window: int | None, rope_base: float) -> None:
    attention.sliding_window = np.int32(window or 0)
    attention.rotary_base = np.float32(10_000 if window else rope_base)


def _norms(node: Node) -> Iterable[Node]:
    """All RMS norms below a node of a specification."""
    specs = _library().specs
    for child in vars(node).values():
        for item in child if isinstance(child, list) else [child]:
            if isinstance(item, specs.common_spec.LayerNormSpec):
                yield item
            elif isinstance(item, specs.model_spec.LayerSpec):
                yield from _norms(item)


_PLACES = {
    "attention.norm": "self_attention.layer_norm",
    "attention.qkv": "self_attention.linear.0",
    "attention.q_norm": "self_attention.q_norm",
    "attention.k_norm": "self_attention.k_norm",
    "attention.out": "self_attention.linear.1",
    "ffn.norm": "ffn.layer_norm",
    "ffn.gate": "ffn.linear_0",
    "ffn.up": "ffn.linear_0_noact",
    "ffn.down": "ffn.linear_1",
}
_PLACES_WITH_POST_NORMS = {
    "attention.norm": "input_layer_norm",
    "attention.post_norm": "post_attention_layer_norm",
    "ffn.norm": "pre_feedforward_layer_norm",
    "ffn.post_norm": "post_feedforward_layer_norm",
}


def _place(decoder: Node, shape: Shape, name: str) -> tuple[Node, str]:
    """The node and the attribute of CTranslate2's decoder specification that a tensor belongs to."""
    if name == "embeddings":
        return decoder.embeddings, "weight"
    if name == "positions":
        return decoder.position_encodings, "encodings"
    part, _, attribute = name.rpartition(".")
    node = decoder
    if part.startswith("layers."):
        _, index, block, kind = part.split(".")
        node = decoder.layer[int(index)]
        part = f"{block}.{kind}"
        if part == "ffn.up" and not shape.gated:
            part = "ffn.gate"
        post_norms = shape.family in {Family.GEMMA2, Family.GEMMA3}
        part = (_PLACES | _PLACES_WITH_POST_NORMS if post_norms else _PLACES)[part]
    elif part == "norm":
        part = "layer_norm"
    for step in part.split("."):
        node = node[int(step)] if step.isdigit() else getattr(node, step)
    if part.endswith("norm"):
        attribute = {"weight": "gamma", "bias": "beta"}[attribute]
    return node, attribute
