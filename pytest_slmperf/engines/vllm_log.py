"""What a vLLM server says of itself: in its log while it starts, and in its metrics afterwards. Pure.

Its log is asked for in a format of ours (`LOGGING`), whose stamps are seconds of the wall clock, to the millisecond.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

Setting = str | int | float | bool

LOGGING: Mapping[str, object] = MappingProxyType(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"stamped": {"format": "%(levelname)s %(created).3f [%(filename)s:%(lineno)d] %(message)s"}},
        "handlers": {
            "log": {"class": "logging.StreamHandler", "formatter": "stamped", "stream": "ext://sys.stdout"},
        },
        "loggers": {"vllm": {"handlers": ["log"], "level": "INFO", "propagate": False}},
    }
)
"""What the file that VLLM_LOGGING_CONFIG_PATH names holds, as JSON. vLLM's own stamps are of whole seconds."""

_STAMPED = re.compile(r"(?:INFO|WARNING|ERROR) (?P<at_s>\d+\.\d+) \[[^\]]+\] (?P<said>.*)$", re.MULTILINE)

_LOADING = "Starting to load model"
_LOADED = ("Loading weights took", "Model loading took")
_WARMING, _WARMED = "Warming up model for the compilation", "Warming up done"
_COMPILED = re.compile(r"torch\.compile (?:took|takes) ([\d.]+) s in total")
_SIZED = "KV cache size:"
_CAPTURED = "Graph capturing finished"


def phases(log: str, began_s: float) -> dict[str, float]:
    """How long each phase of the start took, in seconds; one that this start had not, or didn't tell, is missing.

    `import`: from `began_s`, when the server was started, until its worker begins to load the model, so with all
    processes and their imports. `load`: the weights. `compile`: torch.compile, on a CPU with the run that it is for.
    `capture`: from the KV cache's allocation until the CUDA graphs are captured.
    """
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for at_s, said in _stamped(log):
        for sign in (_LOADING, *_LOADED, _WARMING, _WARMED, _SIZED, _CAPTURED):
            if sign in said:
                first.setdefault(sign, at_s)
                last[sign] = at_s
    loaded_s = max((last[sign] for sign in _LOADED if sign in last), default=None)
    found: dict[str, float] = {}
    if _LOADING in first:
        found["import"] = first[_LOADING] - began_s
        if loaded_s is not None:
            found["load"] = loaded_s - first[_LOADING]
    compiled = _COMPILED.findall(log)
    if compiled:
        found["compile"] = max(map(float, compiled))  # of several workers that compile side by side
    elif _WARMING in first and _WARMED in last:
        found["compile"] = last[_WARMED] - first[_WARMING]
    if _SIZED in last and _CAPTURED in last:
        found["capture"] = last[_CAPTURED] - last[_SIZED]
    return {name: seconds for name, seconds in found.items() if seconds >= 0}


def _stamped(log: str) -> Iterator[tuple[float, str]]:
    return ((float(line["at_s"]), line["said"]) for line in _STAMPED.finditer(log))


_CONFIGURATION = re.compile(r"Initializing a V1 LLM engine .*? with config: (?P<said>.*)")
_NAMED = {
    "quantization": "quantization",
    "tensor_parallel": "tensor_parallel_size",
    "load_format": "load_format",
    "enforce_eager": "enforce_eager",
    "chunked_prefill": "enable_chunked_prefill",
    "prefix_caching": "enable_prefix_caching",
    "kv_cache_dtype": "kv_cache_dtype",
}
"""Our name of a setting, and vLLM's in the line that says what it was resolved to."""
_GRAPH_MODE = re.compile(r"'cudagraph_mode': <CUDAGraphMode\.(\w+)")
_GRAPH_SIZES = re.compile(r"'cudagraph_capture_sizes': \[([\d, ]*)\]")
_COMPILE_MODE = re.compile(r"'mode': <CompilationMode\.(\w+)")
_ATTENTION = re.compile(r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention backend\b|backend\.$)", re.MULTILINE)
_BATCHED_TOKENS = re.compile(r"max_num_batched_tokens=(\d+)")
_DEVICE = re.compile(r"\bdevice_config=(?:device\(type=)?'?(\w+)")
_DTYPE = re.compile(r"\bdtype=torch\.(\w+)")


def device(log: str) -> str | None:
    """`cpu` or `cuda`, as it was resolved."""
    return _only(_DEVICE, _configuration(log))


def dtype(log: str) -> str | None:
    """The type of weights and activations, as it was resolved."""
    return _only(_DTYPE, _configuration(log))


def settings(log: str) -> dict[str, Setting]:
    """What was resolved, by our names; what this version doesn't say is missing."""
    said = _configuration(log)
    found: dict[str, Setting] = {}
    for ours, theirs in _NAMED.items():
        if (value := _only(re.compile(rf"\b{theirs}=([\w.+-]+)"), said)) not in {None, "None"}:
            found[ours] = _value(value)
    mode, compiled = _only(_GRAPH_MODE, said), _only(_COMPILE_MODE, said)
    if compiled is not None:
        found["compile"] = compiled != "NONE"
    if mode is not None:
        found["graphs"] = mode.lower()
    sizes = [int(size) for size in (_only(_GRAPH_SIZES, said) or "").replace(",", " ").split()]
    if sizes:
        found["graph_sizes"] = f"{len(sizes)}, up to {max(sizes)}"
    for name, pattern in (("attention", _ATTENTION), ("max_num_batched_tokens", _BATCHED_TOKENS)):
        if (value := _only(pattern, log)) is not None:
            found[name] = _value(value)
    return found


_CACHE_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")


def cache_tokens(log: str) -> int | None:
    """How many tokens the KV cache holds."""
    held = _only(_CACHE_TOKENS, log)
    return int(held.replace(",", "")) if held else None


_CACHE = re.compile(r"^vllm:cache_config_info\{(?P<labels>.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def cache(metrics: str) -> dict[str, int]:
    """The KV cache as `/metrics` has it: `kv_blocks` and `block_size`; empty where it says neither."""
    line = _CACHE.search(metrics)
    labels = dict(_LABEL.findall(line["labels"])) if line else {}
    names = {"kv_blocks": "num_gpu_blocks", "block_size": "block_size"}
    return {ours: int(labels[theirs]) for ours, theirs in names.items() if labels.get(theirs, "").isdecimal()}


_RAISED = re.compile(r"^(?:\(.*? pid=\d+\) )?(?:ERROR .*?\] )?(?:[\w.]+\.)?(?P<why>\w*(?:Error|Exception): .+)$")
_REFUSED = re.compile(r"^\S+: error: (?P<why>.+)$")
_FOLLOWS = "initialization failed"
"""Of the errors that only say that another one was raised before."""


def why(log: str) -> str | None:
    """Why it didn't start: the first error that it raised, or what its parser refused; None where it doesn't say.

    The end of its log won't do: each of its processes repeats that another has failed.
    """
    lines = log.splitlines()
    for number, line in enumerate(lines):
        found = _REFUSED.match(line) or _RAISED.match(line)
        if found and _FOLLOWS not in line:
            if "validation error" in line and number + 1 < len(lines):  # pydantic's: what was wrong comes below
                return lines[number + 1].strip().partition(" [type=")[0]
            return found["why"]
    return None


def _configuration(log: str) -> str:
    return _only(_CONFIGURATION, log) or ""


def _only(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def _value(text: str) -> Setting:
    if text in {"True", "False"}:
        return text == "True"
    return int(text) if text.isdecimal() else text
