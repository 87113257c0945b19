"""vLLM as its users run it: its own server with all its processes, asked over HTTP as any server of the OpenAI API is.

One launch is one server, for all batch sizes and concurrencies of its cases. The memory of its KV cache is fixed, or it
would differ from launch to launch; prefix caching is off unless it is asked for, as prompts of a measurement share
none. Random weights are those of the transformers engine, bit by bit.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from pytest_slmperf.core.engine import EngineFacts, EngineSpec, Request, Served
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.shapes import Shape, parameters, shape_of
from pytest_slmperf.engines import openai, openai_options, vllm_log, weights
from pytest_slmperf.engines.options import options_of, refuse_unknown
from pytest_slmperf.engines.transformers import (
    KERNEL_VARIABLES,
    model_files,
    own_model,
    random_model,
    write_configuration,
)

DEVICES = ("auto", "cpu", "cuda")
MODULE = "vllm.entrypoints.openai.api_server"
"""vLLM's server; `vllm serve` is the same, and can't be started by the CPU build's package."""
OURS = {
    "api_key", "api_server_count", "config", "disable_log_stats", "dtype", "headless", "host", "model", "model_tag",
    "port", "served_model_name", "ssl_certfile", "ssl_keyfile", "stream_interval", "uds",
}  # fmt: skip
"""Arguments of vLLM that this engine needs to choose itself; of `api_server_count` MODULE takes any, and starts one."""
GIB = 2**30
CPU_CACHE_BYTES = GIB
"""Of the KV cache on a CPU, unless the options say so."""
USED_SHARE = 0.9
RESERVE_BYTES = 3 * GIB
"""What vLLM takes of a GPU beside weights and KV cache: the CUDA context, activations and graphs."""
START_CHECK_SHARE = 0.1
"""vLLM starts only where this share of a GPU is free; with a KV cache of fixed memory it means nothing else."""
SMI_LIMIT_S = 20
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""An environment variable by which vLLM's CPU build sets its KV cache, whatever its arguments say."""
NO_KERNELS = re.compile(r"VLLM_(?:API_KEY|.*LOGGING.*|.*_ROOT|NO_USAGE_STATS|DO_NOT_TRACK|HOST_IP|PORT|USAGE_.*)$")
"""Of vLLM's environment variables, those that have no part in how fast it is, or are secret."""

Setting = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Options:
    """Options of this engine's own. All others are arguments of vLLM: `max_model_len=1024`, `enforce_eager=true`."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a CUDA GPU where `nvidia-smi` lists one. vLLM is built for one or the other."""
    device_index: int = 0
    start_limit_s: float = 900.0
    request_limit_s: float = openai_options.REQUEST_LIMIT_S
    log: str | None = None
    """File that keeps what the server prints."""


@dataclass(frozen=True, slots=True)
class Board:
    """A GPU, as nvidia-smi lists it."""

    index: str
    uuid: str
    memory_bytes: int


def create(spec: EngineSpec) -> "VLLM":
    """The engine of a spec, not started. Raises EngineUnavailable for options that can't be."""
    return VLLM(spec)


class VLLM(openai.OpenAI):
    """One server of vLLM's and the connections to it."""

    def __init__(self, spec: EngineSpec, *, cache: Path | None = None) -> None:
        known = {field.name for field in fields(Options)}
        own = {name: value for name, value in spec.options.items() if name in known}
        self._vllm = options_of(Options, replace(spec, options=own))
        refuse_unknown(spec, "device", self._vllm.device, DEVICES)
        self._arguments = {name.replace("-", "_"): value for name, value in spec.options.items() if name not in known}
        _refuse_ours(spec, self._arguments)
        self._cache = cache
        self._logging: IO[str] | None = None
        self._cache_tokens = self._block_tokens = 0
        super().__init__(
            spec,
            openai_options.Options(
                command="{port}",  # the rest of it is known when it starts
                served_model=spec.model_name,
                start_limit_s=self._vllm.start_limit_s,
                request_limit_s=self._vllm.request_limit_s,
                log=self._vllm.log,
            ),
        )

    # Start

    def start(self) -> EngineFacts:
        """Start the server, and make its random weights first where nobody did before. Blocks, for a minute and more.

        Raises EngineUnavailable in vLLM's words for what it refuses, and MemoryError where its memory is too small.
        """
        if find_spec("vllm") is None:
            raise EngineUnavailable("the engine vllm cannot be imported: pip install 'pytest-slmperf[vllm]'")
        shape = None if weights.is_path(self._spec.model) else shape_of(self._spec.model)
        dummy = self._arguments.get("load_format") == "dummy"
        if shape is not None:
            folder = shape_folder(shape, with_weights=not dummy, cache=self._cache)
        else:
            folder = Path(self._spec.model).expanduser()
            folder = folder if dummy else own_model(folder)
        boards = _boards() if self._vllm.device != "cpu" else ()
        if self._vllm.device == "cuda" and not boards:
            raise EngineUnavailable("vllm cannot use the device cuda: nvidia-smi lists no GPU")
        chosen = self._visible(boards)
        command = [sys.executable, "-m", MODULE, *self._command_line(folder, shape, chosen)]
        self._environment |= self._variables(chosen)
        began_s = time.time()
        try:
            self._launch(shlex.join(command))
            self._wait_until_ready()
        except (EngineFailed, MemoryError) as error:
            raise self._explained(error) from error
        facts = self._facts(self.run(self._introduced()), folder, shape, began_s)
        if self._vllm.device not in {"auto", facts.device}:
            raise EngineUnavailable(f"this build of vLLM runs on {facts.device}, and not on {self._vllm.device}")
        self._counts_memory = facts.device == "cpu"
        return facts

    def _command_line(self, folder: Path, shape: Shape | None, boards: Sequence[Board]) -> list[str]:
        arguments: dict[str, Setting] = {
            "model": str(folder),
            "served_model_name": self._spec.model_name,
            "host": "127.0.0.1",
            "port": "{port}",
            "dtype": self._spec.dtype,
            "stream_interval": 1,
            "max_num_seqs": 256,
            "enable_prefix_caching": False,
            "generation_config": "vllm",  # a folder's own may sample
        }
        if not any((folder / name).is_file() for name in TOKENIZERS):
            arguments["skip_tokenizer_init"] = True
        if "gpu_memory_utilization" not in self._arguments:
            arguments["gpu_memory_utilization"] = START_CHECK_SHARE
            if "kv_cache_memory_bytes" in self._arguments:
                os.environ.pop(CACHE_SPACE, None)  # it would outdo the argument
            elif boards:
                least = min(board.memory_bytes for board in boards)
                arguments["kv_cache_memory_bytes"] = _cache_bytes(shape, self._spec.dtype, least, len(boards))
            elif CACHE_SPACE not in os.environ:
                arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        return command_line({**arguments, **self._arguments})

    def _variables(self, boards: Sequence[Board]) -> dict[str, str]:
        self._logging = tempfile.NamedTemporaryFile("w", prefix="slmperf-", suffix=".json")  # noqa: SIM115 - until the end
        json.dump(dict(vllm_log.LOGGING), self._logging)
        self._logging.flush()
        variables = {
            "VLLM_CONFIGURE_LOGGING": "1",
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_LOGGING_CONFIG_PATH": self._logging.name,
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            # Its threads stay on the cores that the launch was given, all of them: vLLM would keep one back.
            "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        }
        if boards:  # numbers: it can't read UUIDs
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(board.index for board in boards)
        return variables

    def _visible(self, boards: Sequence[Board]) -> tuple[Board, ...]:
        """The boards that the server is to see: as many as it splits the model over, from `device_index` on."""
        if not boards:
            return ()
        names = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = [board for name in names.split(",") for board in _named(boards, name)] if names else list(boards)
        parallel = int(self._arguments.get("tensor_parallel_size", 1)) * int(
            self._arguments.get("pipeline_parallel_size", 1)
        )
        first = self._vllm.device_index
        if len(seen) < first + parallel:
            raise EngineUnavailable(
                f"vllm needs the GPUs {first} to {first + parallel - 1}, and {len(seen)} can be seen here"
            )
        return tuple(seen[first : first + parallel])

    def _explained(self, error: EngineFailed | MemoryError) -> Exception:
        """What made the start fail, in vLLM's words; its log's end only says that another process failed."""
        why = vllm_log.why(self.server.whole_log()) if self.server else None
        if why is None:
            return error
        if isinstance(error, MemoryError):
            return MemoryError(f"vLLM did not start: {why}")
        return EngineUnavailable(f"vLLM did not start: {why}")

    def _facts(self, served: EngineFacts, folder: Path, shape: Shape | None, began_s: float) -> EngineFacts:
        log = self.server.whole_log() if self.server else ""
        _, metrics = self.run(self._got(self._root("/metrics")))
        cache = vllm_log.cache(metrics.decode(errors="replace"))
        self._block_tokens = cache.get("block_size", 0)
        self._cache_tokens = vllm_log.cache_tokens(log) or 0
        resolved: dict[str, Setting] = {"threads": self._spec.threads, **vllm_log.settings(log), **cache}
        resolved["max_num_seqs"] = self._arguments.get("max_num_seqs", 256)
        return EngineFacts(
            version=_version(served.version),
            device=vllm_log.device(log) or ("cuda" if self._vllm.device == "cuda" else "cpu"),
            dtype=vllm_log.dtype(log) or self._spec.dtype,
            weights=self._weights(folder, shape),
            context_tokens=served.context_tokens,
            vocabulary=_vocabulary(folder),
            settings={**resolved, **_kernel_variables(os.environ)},
            own_process=False,
            phases_s=vllm_log.phases(log, began_s),
        )

    def _weights(self, folder: Path, shape: Shape | None) -> str:
        if self._arguments.get("load_format") == "dummy":
            return "dummy:vllm"
        return "random" if shape else weights.content_name(model_files(folder), cache=self._cache)

    # Serving

    async def batch(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Serve the requests as one static batch: all are sent at once, and run together.

        Raises MemoryError where the KV cache doesn't hold all of it at once, and EngineFailed where vLLM would let part
        of it wait for another reason, or fails.
        """
        most = int(self._arguments.get("max_num_seqs", 256))
        if len(batch) > most:
            raise EngineFailed(f"vLLM runs {most} requests at once, and {len(batch)} were to be: raise max_num_seqs")
        if self._cache_tokens and self._block_tokens:
            block = self._block_tokens
            needed = sum(-(-(len(one.prompt) + one.output_tokens) // block) * block for one in batch)
            if needed > self._cache_tokens:
                raise MemoryError(
                    f"the batch takes {needed} tokens of vLLM's KV cache, which holds {self._cache_tokens}: raise "
                    "kv_cache_memory_bytes"
                )
        return await super().batch(batch, observe=observe)

    def stop(self) -> None:
        """End the server and all its processes."""
        try:
            super().stop()
        finally:
            if self._logging is not None:
                self._logging.close()


def _refuse_ours(spec: EngineSpec, arguments: Mapping[str, Setting]) -> None:
    for name in arguments:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise EngineUnavailable(f"{spec.engine}: {name!r} is no argument of vLLM")
        if name in OURS:
            raise EngineUnavailable(f"{spec.engine}: {name} is chosen by the engine, and can't be an option")


def command_line(arguments: Mapping[str, Setting]) -> list[str]:
    """Arguments as vLLM's command line has them: `--enforce-eager`, `--no-enable-prefix-caching`, `--seed 3`."""
    words: list[str] = []
    for name, value in arguments.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
        else:
            words += [f"--{dashed}", str(value)]
    return words


def share_of(spec: EngineSpec, memory_bytes: int, own_bytes: float, *, share: float, gpus: int) -> dict[str, Setting]:
    """The options, in place of the spec's, with which it takes `own_bytes` of each of its GPUs, which have
    `memory_bytes`. What the spec's own give it in bytes is for all that share a GPU, and it gets this share of them.

    Its KV cache has a fixed size, so that each of several has the same, whatever the others left when it started.
    Raises EngineUnavailable where that is too little.
    """
    lowered: dict[str, Setting] = {}
    for name, value in spec.options.items():
        if name.replace("-", "_") == "gpu_memory_utilization" and isinstance(value, int | float):
            lowered[name] = value * own_bytes / memory_bytes
        if name.replace("-", "_") == "kv_cache_memory_bytes":
            lowered[name] = int(_bytes_of(value) * share)
    if lowered:
        return lowered
    shape = None if weights.is_path(spec.model) else shape_of(spec.model)
    return {"kv_cache_memory_bytes": _cache_bytes(shape, spec.dtype, int(own_bytes), gpus)}


def _bytes_of(value: Setting) -> int:
    """A size as vLLM's command line has it: `16G` is 16 GiB, and `16g` 16 GB. Raises EngineUnavailable."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", str(value))
    if found is None:
        raise EngineUnavailable(f"kv_cache_memory_bytes={value!r} is no size")
    number, unit = found.groups()
    power = " kmgt".index(unit.lower() or " ")
    return int(float(number) * (1000 if unit.islower() else 1024) ** power)


def _cache_bytes(shape: Shape | None, dtype: str, memory_bytes: int, gpus: int) -> int:
    """What is left for a KV cache beside the weights of so much memory of each GPU, in whole GiB, so that each launch
    gets the same.

    Raises EngineUnavailable where the model's size isn't known, or nothing is left.
    """
    if shape is None:
        raise EngineUnavailable("of a model by path, say how much its KV cache gets: kv_cache_memory_bytes=16G")
    weights_bytes = parameters(shape) * (4 if dtype == "float32" else 2)
    left = int(USED_SHARE * memory_bytes) - RESERVE_BYTES - weights_bytes // gpus
    if left < GIB:
        raise EngineUnavailable(
            f"{shape.name} leaves no GiB of {memory_bytes / GIB:.3g} GiB for a KV cache: say how much, "
            "kv_cache_memory_bytes"
        )
    return left // GIB * GIB


def shape_folder(shape: Shape, *, with_weights: bool, cache: Path | None = None) -> Path:
    """The folder of a model of this shape with its config.json, made where it isn't there yet.

    Its weights are those of the transformers engine, by links.
    """
    weighty = random_model(shape, cache) if with_weights else None

    def write(folder: Path) -> None:
        write_configuration(shape, folder)
        for file in weighty.glob("model*") if weighty else ():
            (folder / file.name).symlink_to(Path("..", weighty.name, file.name))  # type: ignore[union-attr]

    name = f"{shape.name}-config" if weighty is None else f"{weighty.name}-vllm"
    return weights.kept_model(name, bytes_needed=0, write=write, cache=cache)


def _vocabulary(folder: Path) -> int:
    try:
        read = json.loads((folder / "config.json").read_text())
        return int(read.get("vocab_size") or read["text_config"]["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return openai_options.VOCABULARY


def _version(served: str) -> str:
    """`0.32.0, torch 2.13.0+cpu`."""
    with suppress(PackageNotFoundError):
        return f"{served.removeprefix('vllm ')}, torch {installed_version('torch')}"
    return served


def _kernel_variables(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Environment variables by which vLLM and torch choose kernels and memory, where they are set."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if name in KERNEL_VARIABLES or (name.startswith("VLLM_") and not NO_KERNELS.match(name))
    }


def _boards() -> tuple[Board, ...]:
    """The GPUs that nvidia-smi lists, or none where there is none."""
    ask = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=SMI_LIMIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.split(", ") for line in said.splitlines())
    return tuple(Board(index, uuid, int(mib) << 20) for index, uuid, mib in rows if mib.isdecimal())


def _named(boards: Sequence[Board], name: str) -> list[Board]:
    """The board that CUDA_VISIBLE_DEVICES names by its number or the beginning of its UUID."""
    name = name.strip()
    return [board for board in boards if board.index == name or (name[:4] == "GPU-" and board.uuid.startswith(name))]
