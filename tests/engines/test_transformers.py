"""The transformers engine on torch's CPU build, with real models of tiny shapes; `tox run -e transformers` runs it."""

import json
import re
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from architectures import ARCHITECTURES, lengths, requests, shrunk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pytest_slmperf.core.answers import NOT_FINITE, fixed_prompts
from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.launch import REPLICA_VARIABLE, Load, RoundPolicy
from pytest_slmperf.core.shapes import SHAPES, parameters
from pytest_slmperf.engines.cache import CACHE_VARIABLE
from pytest_slmperf.engines.ctranslate2 import CTranslate2, write_model
from pytest_slmperf.engines.transformers import (
    KERNEL_VARIABLES,
    Transformers,
    _translated,
    configuration,
    create,
    random_model,
    write_weights,
)
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.testing import conforms

TINY = SHAPES["tiny-2x64"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, cache):
    """No kernel is chosen from outside, no hub is known, and weights are kept in the cache of these tests."""
    for name in KERNEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the engine sets it, and these tests' process gets it back
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))


def of(model="tiny-2x64", dtype="float32", threads=1, **options):
    """A spec for the CPU, also where a GPU is."""
    return EngineSpec("transformers", str(model), dtype=dtype, threads=threads, options={"device": "cpu"} | options)


def started(*words, **options):
    engine = Transformers(of(*words, **options))
    engine.start()
    return engine


@pytest.fixture(scope="module")
def tiny(cache):
    """A started engine with two layers of 64, for the tests that only serve."""
    engine = Transformers(of(), cache=cache)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def own(tmp_path):
    """A folder with a model as transformers saves it."""
    return save_own(tmp_path / "my-model", TINY)


def save_own(folder, shape):
    folder.mkdir()
    write_weights(shape, "float32", folder)
    configuration(shape, transformers).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def talkative(tmp_path_factory, cache):
    """A started engine whose answers hardly repeat a token, as those of most tiny random models do."""
    folder = save_own(tmp_path_factory.mktemp("talkative") / "model", shrunk("opt-350m"))
    engine = Transformers(of(folder), cache=cache)
    engine.start()
    yield engine
    engine.stop()


def answers(engine, batch):
    """The tokens that generate gives, as serve() asks it."""
    engine.serve(batch, observe=False)
    ready = engine._ready
    ready.kept.reset()
    width = ready.prompts.shape[1]
    generated = engine._model.generate(
        ready.prompts, attention_mask=ready.mask, past_key_values=ready.kept, max_new_tokens=ready.longest
    )
    return generated[:, width:].tolist()


# -- serving


def test_the_engine_keeps_the_protocol(cache):
    """What every engine promises, this one keeps."""
    conforms(lambda spec: Transformers(spec, cache=cache), of())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(lengths, min_size=1, max_size=6), observe=st.booleans())
def test_every_answer_has_exactly_the_length_asked_for(tiny, batch, observe):
    """Whatever the lengths of prompts and outputs in one batch, each request gets its own number of tokens."""
    served = tiny.serve(requests(*batch), observe=observe)
    assert served.output_tokens == tuple(output for _, output in batch)
    assert served.started_ns < served.ended_ns
    assert served.peak_memory_bytes is None
    if not observe:
        assert served.token_ns is None
        return
    assert tuple(map(len, served.token_ns)) == served.output_tokens
    for stamps in served.token_ns:
        assert list(stamps) == sorted(stamps)
        assert served.started_ns < stamps[0] <= stamps[-1] <= served.ended_ns


def test_a_token_is_stamped_when_its_step_is_done(tiny):
    """Each step of a batch has a time of its own, and the first comes after the prompts, well before the last."""
    served = tiny.serve(requests((64, 32), (64, 32)), observe=True)
    first, second = served.token_ns
    assert first == second
    assert all(before < after for before, after in pairwise(first))
    assert first[-1] - first[0] > (served.ended_ns - served.started_ns) / 2


def test_the_clock_is_the_one_that_other_processes_read(tiny):
    """Times lie between two readings of the monotonic clock around the call."""
    before = time.monotonic_ns()
    served = tiny.serve(requests((8, 4)), observe=True)
    assert before <= served.started_ns <= served.token_ns[0][0] <= served.ended_ns <= time.monotonic_ns()


def test_a_padded_prompt_is_answered_as_it_would_be_alone(talkative):
    """Prompts of unlike lengths share a batch, and none sees its padding or another's tokens."""
    batch = requests((12, 9), (1, 9), (7, 9))
    assert answers(talkative, batch) == [answers(talkative, (request,))[0] for request in batch]


def test_a_batch_is_as_fast_as_if_no_longer_one_had_come_before(tiny):
    """A cache is as long as its own batch asks for, so that the order of a launch's cases changes no figure."""
    for prompt, output in ((64, 64), (8, 4)):
        tiny.serve(requests((prompt, output)), observe=False)
        assert tiny._ready.kept.get_max_length() == prompt + output - 1


def test_a_batch_is_answered_the_same_again(talkative):
    """The cache that is kept for a batch starts empty each time."""
    batch = requests((8, 9), (3, 9))
    for _ in range(2):
        talkative.serve(batch, observe=False)
        assert talkative._ready.kept.get_seq_length() == 8 + 9 - 1


def test_nothing_but_the_asked_length_ends_an_answer(tiny):
    """A request goes on past the model's end token: every token there is may come."""
    tiny.serve(requests((8, 4)), observe=False)
    assert tiny._model.generation_config.eos_token_id is None


def test_a_launch_measures_the_engine_in_a_process_of_its_own():
    """Started by the launch, in a worker, the engine is measured as any other."""
    load = Load("decode/tiny/batch=2", ((8, 4),) * 2, seed=1)
    policy = RoundPolicy(rounds=1, round_s=0.02, answer_limit_s=60)
    record = run_launch(of(), [load], policy, arm="candidate", index=0, cores=None, quantiles=(0.5,))
    assert list(record.cases) == [load.case]
    assert record.versions["torch"] == torch.__version__
    assert record.versions["transformers"].startswith(transformers.__version__)


# -- facts


def test_facts_say_what_was_resolved():
    """A started engine names its versions, type, weights, context and the settings that belong to a baseline's key."""
    facts = Transformers(of()).start()
    assert facts.version == f"{transformers.__version__}, torch {torch.__version__}"
    assert (facts.device, facts.dtype, facts.weights) == ("cpu", "float32", "random")
    assert (facts.context_tokens, facts.vocabulary) == (2_048, 512)
    assert facts.settings == {"threads": 1, "attention": "sdpa", "cache": "static", "compile": False}
    assert facts.startup_s is None


def test_variables_that_choose_kernels_are_part_of_the_settings(monkeypatch):
    """torch's own environment variables change what is measured, so they are recorded."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert Transformers(of()).start().settings["ATEN_CPU_CAPABILITY"] == "avx2"


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_takes_the_threads_of_the_spec(threads):
    """The engine uses as many threads as it was given cores."""
    started("tiny-2x64", "float32", threads)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_each_type_serves(dtype):
    """The types of a GPU give answers of the forced length on a CPU, too."""
    engine = Transformers(of(dtype=dtype))
    assert engine.start().dtype == dtype
    assert engine.serve(requests((8, 4), (8, 4)), observe=False).output_tokens == (4, 4)


def test_attention_can_be_chosen():
    """The option names the implementation, and the settings say so."""
    assert Transformers(of(attention="eager")).start().settings["attention"] == "eager"


# -- what is refused


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (of(devise="cpu"), "no option 'devise'; it knows device, device_index, attention, compile"),
        (of(device="tpu"), "device='tpu'; it knows auto, cpu, cuda"),
        (of(device_index="0"), "device_index='0' must be of type int"),
        (of(compile=1), "compile=1 must be of type bool"),
        (of(attention="paged"), "attention='paged'; it knows auto, eager, sdpa, flash_attention_2"),
        (of(dtype="int8"), "dtype='int8'; it knows float32, bfloat16, float16"),
    ],
)
def test_options_and_types_are_checked_before_anything_is_loaded(spec, message):
    """A wrong option or type fails when the engine is made, with the known ones."""
    with pytest.raises(EngineUnavailable, match=message):
        create(spec)


def test_a_gpu_that_torch_does_not_see_is_unavailable():
    """A device that isn't there is an error that says what there is, never another device."""
    seen = torch.cuda.device_count()
    with pytest.raises(EngineUnavailable, match=rf"cannot use the device cuda:{seen}: torch .* sees {seen} CUDA GPUs"):
        Transformers(of(device="cuda", device_index=seen)).start()


def test_nothing_compiles_on_a_cpu():
    """generate compiles for a GPU only, so asking for it on a CPU is an error, and not asking compiles nothing."""
    with pytest.raises(EngineUnavailable, match="compiles for a GPU only"):
        Transformers(of(compile=True)).start()
    assert started()._model.generation_config.disable_compile


def test_making_an_engine_imports_no_engine():
    """create() is cheap: torch is imported when the engine starts."""
    code = (
        "import sys\n"
        "from pytest_slmperf.core.engine import EngineSpec\n"
        "from pytest_slmperf.engines.registry import create\n"
        "create(EngineSpec('transformers', 'opt-13b'))\n"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package_the_way_to_it_is_said():
    """An environment that lacks torch is told which extra brings it."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from pytest_slmperf.core.engine import EngineSpec\n"
        "from pytest_slmperf.engines.registry import create\n"
        "create(EngineSpec('transformers', 'tiny-2x64')).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "EngineUnavailable" in done.stderr
    assert "pip install 'pytest-slmperf[transformers]'" in done.stderr


def test_a_batch_beyond_the_context_is_refused(tiny):
    """All requests of a batch are padded to the longest, so the longest prompt and output together must fit."""
    with pytest.raises(EngineFailed, match=r"1000 prompt and 1049 output tokens exceeds the context of 2048"):
        tiny.serve(requests((1_000, 4), (4, 1_049)), observe=False)


def test_an_empty_batch_is_refused(tiny):
    """There is nothing to time in a batch of none."""
    with pytest.raises(EngineFailed, match="empty batch"):
        tiny.serve((), observe=False)


def test_an_engine_that_was_not_started_or_was_stopped_serves_nothing():
    """serve() needs start() before and no stop() since."""
    engine = Transformers(of())
    with pytest.raises(EngineFailed, match="before it was started"):
        engine.serve(requests((8, 4)), observe=False)
    engine.start()
    engine.stop()
    with pytest.raises(EngineFailed, match="after it was stopped"):
        engine.serve(requests((8, 4)), observe=False)


def test_what_torch_raises_is_passed_on_with_its_text(tiny):
    """A token that the model doesn't have is torch's own error, in its words."""
    with pytest.raises(EngineFailed, match="batch of 1: index out of range"):
        tiny.serve((Request((20, 600), 4),), observe=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is set from what Linux counts")
def test_a_batch_that_memory_does_not_hold_is_a_memory_error(tiny):
    """An allocation that the host refuses is told from any other failure, and the engine serves on."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**29, before[1]))
    try:
        with pytest.raises(MemoryError, match=r"batch of 4000.*can't allocate memory"):
            tiny.serve((Request((20,), 1_000),) * 4_000, observe=False)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert tiny.serve(requests((8, 4)), observe=False).output_tokens == (4,)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", MemoryError),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", MemoryError),
        ("CUDA error: an illegal memory access was encountered", EngineFailed),
    ],
)
def test_a_gpus_memory_that_ran_out_beside_the_allocator_is_a_memory_error(words, kind):
    """A context or a library that finds no room is told from a GPU that fails."""
    assert type(_translated(RuntimeError(words), "it failed")) is kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_a_gpu_a_batch_ends_with_its_work_and_tells_its_peak(cache):
    """Nothing is left to do for the GPU when the clock is read, and its allocator held the weights at least."""
    engine = Transformers(of("tiny-4x256", "float16", device="cuda"), cache=cache)
    assert engine.start().device == "cuda"
    batch = requests((16, 64), (8, 4))
    engine.serve(batch, observe=False)
    served = engine.serve(batch, observe=True)
    returned_ns = time.monotonic_ns()
    torch.cuda.synchronize()
    assert time.monotonic_ns() - returned_ns < (served.ended_ns - served.started_ns) / 10
    assert served.peak_memory_bytes > sum(tensor.nbytes for tensor in engine._model.parameters())
    assert [len(stamps) for stamps in served.token_ns] == [64, 4]


# -- models of a user's own


def test_a_folder_is_served(own):
    """A path takes the place of a name; the weights go by their content, and the case by the folder's name."""
    spec = of(own)
    engine = Transformers(spec)
    facts = engine.start()
    assert re.fullmatch("sha256:[0-9a-f]{16}", facts.weights)
    assert (facts.context_tokens, facts.vocabulary) == (2_048, 512)
    assert spec.model_name == "my-model"
    assert engine.serve(requests((8, 4)), observe=False).output_tokens == (4,)


def as_pickle(folder):
    """The folder with its weights in torch's older format."""
    shards = sorted(folder.glob("model-*.safetensors"))
    torch.save(
        {name: torch.tensor(values) for shard in shards for name, values in load_file(shard).items()},
        folder / "pytorch_model.bin",
    )
    remove("model*")(folder)
    return folder


def test_weights_in_the_older_format_are_served_alike(own):
    """A folder with pytorch_model.bin answers as one with safetensors does, under a name of its own."""
    plain, name = answers(started(own), requests((8, 9))), Transformers(of(own)).start().weights
    engine = Transformers(of(as_pickle(own)))
    assert engine.start().weights != name
    assert answers(engine, requests((8, 9))) == plain


def test_a_folders_own_way_of_generating_is_not_followed(own):
    """A generation_config.json that samples, penalises and stops changes nothing of a forced, greedy answer."""
    plain = answers(started(own), requests((8, 9)))
    chosen = {"do_sample": True, "temperature": 9.0, "eos_token_id": plain[0][:3], "repetition_penalty": 3.0}
    (own / "generation_config.json").write_text(json.dumps(chosen))
    assert answers(started(own), requests((8, 9))) == plain


def test_nothing_is_fetched_and_no_host_is_looked_up(own, tmp_path):
    """By name and by path, start and answer open no connection."""
    older = as_pickle(save_own(tmp_path / "older", TINY))
    code = (
        "import os, sys\n"
        "def audit(event, args):\n"
        "    if event in {'socket.connect', 'socket.getaddrinfo'}:\n"
        "        os._exit(3)\n"  # an exception could end in some thread of a library
        "sys.addaudithook(audit)\n"
        "from pytest_slmperf.core.engine import EngineSpec, Request\n"
        "from pytest_slmperf.engines.transformers import create\n"
        "for model in ('tiny-2x64', *sys.argv[1:]):\n"
        "    engine = create(EngineSpec('transformers', model))\n"
        "    engine.start()\n"
        "    engine.serve((Request((20,), 2),), observe=False)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(own), str(older)], check=False).returncode == 0


def remove(*patterns):
    return lambda folder: [path.unlink() for pattern in patterns for path in folder.glob(pattern)]


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


def configure(**fields):
    def change(folder):
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | fields))

    return change


def cut_off(folder):
    shard = folder / "model-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def lose_a_tensor(folder):
    shard = folder / "model-00002.safetensors"
    kept = {name: tensor for name, tensor in load_file(shard).items() if not name.endswith("fc1.weight")}
    save_file(kept, shard, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), r"config\.json is missing"),
        (remove("model*"), r"neither model\*\.safetensors nor pytorch_model\*\.bin"),
        (remove("model-00002.safetensors"), "my-model: .*model-00002.safetensors"),
        (write("config.json", "{"), r"my-model: .*config\.json.* is not a valid JSON"),
        (write("config.json", "{}"), "my-model: Unrecognized model"),
        (configure(model_type="of-tomorrow"), "my-model: .*of-tomorrow"),
        (configure(hidden_size="wide"), "my-model: .*hidden_size"),
        (configure(num_hidden_layers=3), r"16 are missing or of another shape: model\.decoder\.layers\.2"),
        (configure(vocab_size=1_024), r"1 are missing or of another shape: model\.decoder\.embed_tokens"),
        (configure(auto_map={"AutoConfig": "code.Config"}, model_type="mine"), "my-model: .*custom code"),
        (cut_off, "my-model: .*file not fully covered"),
        (lose_a_tensor, r"1 are missing or of another shape: model\.decoder\.layers\.0\.fc1\.weight"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_unavailable(own, damage, message):
    """What is missing, damaged or unknown is named; no tensor is drawn anew, and no code of the folder is run."""
    damage(own)
    with pytest.raises(EngineUnavailable, match=message):
        Transformers(of(own)).start()


def test_a_missing_folder_is_named(tmp_path):
    """A path that leads nowhere is told from an unknown name."""
    with pytest.raises(EngineUnavailable, match=r"there is no folder .*nowhere"):
        Transformers(of(tmp_path / "nowhere")).start()


def test_an_unknown_name_is_answered_with_those_that_are_known():
    """A misspelt model is told from a folder, and nothing is looked for on a hub."""
    with pytest.raises(EngineUnavailable, match=r"unknown model 'opt-125n'.*Did you mean opt-125m"):
        Transformers(of("opt-125n")).start()


# -- models of the table


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_computes_what_another_engine_does(tmp_path, cache, name):
    """A small model of each family has the same random weights as in CTranslate2, and gives the same logits."""
    shape = shrunk(name)
    ours = Transformers(of(save_own(tmp_path / "ours", shape)), cache=cache)
    ours.start()
    (tmp_path / "theirs").mkdir()
    write_model(shape, "float32", tmp_path / "theirs")
    theirs = CTranslate2(EngineSpec("ctranslate2", str(tmp_path / "theirs")), cache=cache)
    theirs.start()
    batch = [request.prompt for request in requests(*[(40, 1)] * 3)]
    expected = np.array(
        theirs._generator.forward_batch([[theirs._vocabulary[token] for token in row] for row in batch])
    )
    with torch.no_grad():
        logits = ours._model(torch.tensor(batch)).logits.numpy()
    # CTranslate2 leaves out Gemma 2's caps on its logits, which small ones hardly reach.
    assert np.abs(logits - expected).max() < 2e-3 * expected.std()


@pytest.mark.parametrize("name", ["opt-350m", "gemma-3-270m"])
def test_a_static_cache_changes_no_answer(tmp_path, name):
    """Past a sliding window, and with padded prompts, answers are those of a model that keeps no cache."""
    engine = started(save_own(tmp_path / "model", shrunk(name, window=16)))
    batch = requests((40, 20), (25, 20), (1, 20))
    cached, ready = answers(engine, batch), engine._ready
    anew = engine._model.generate(ready.prompts, attention_mask=ready.mask, use_cache=False, max_new_tokens=20)
    assert cached == anew[:, 40:].tolist()
    assert len({*cached[0]}) > 5


@pytest.mark.parametrize("name", SHAPES)
def test_every_model_of_the_table_has_the_shape_that_transformers_gives_it(name):
    """As transformers counts them, a model has the parameters of the table."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(configuration(SHAPES[name], transformers))
    assert model.num_parameters() == parameters(SHAPES[name])


def test_large_models_are_loaded_from_16_bits(tmp_path):
    """Weights above a billion parameters are stored in 16 bits, and served in the type that was asked for."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_weights(TINY, "float16", folder)
    configuration(TINY, transformers).save_pretrained(folder)
    engine = Transformers(of(folder))
    assert engine.start().dtype == "float32"
    assert engine.serve(requests((8, 4)), observe=False).output_tokens == (4,)


def test_random_weights_are_made_once():
    """A second start finds the weights of the first."""
    folder = random_model(TINY)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    started()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


# The tokens of its answers


def test_tokens_are_told_of_unlike_requests(tiny):
    """Those that it generates, cut to what each request asked for; nothing of the padding."""
    batch = requests((5, 4), (12, 3), (1, 7))
    told = tiny.answer(batch)
    assert tuple(map(len, told)) == (4, 3, 7)
    assert all(0 <= token < 512 for answer in told for token in answer)
    assert told[1] == tiny.answer((batch[1],))[0]


def test_both_engines_answer_alike(tiny, cache):
    """The same random weights give the same greedy tokens in CTranslate2."""
    other = CTranslate2(EngineSpec("ctranslate2", "tiny-2x64"), cache=cache)
    other.start()
    alone = [(one,) for one in fixed_prompts(512, 2_048)]
    assert [tiny.answer(one) for one in alone] == [other.answer(one) for one in alone]


def test_a_wrong_layer_is_planted_in_one_replica_and_changes_its_answers(tiny, monkeypatch):
    """In its memory, whatever the weights are; nothing else tells it."""
    said = {}
    for replica in ("1", "2"):
        monkeypatch.setenv(REPLICA_VARIABLE, replica)
        engine = started(wrong_replica=2)
        said[replica] = [engine.answer((one,)) for one in fixed_prompts(512, 2_048)]
    assert said["1"] == [tiny.answer((one,)) for one in fixed_prompts(512, 2_048)]
    assert all(wrong != right for wrong, right in zip(said["2"], said["1"], strict=True))


def test_scores_that_are_no_numbers_make_no_tokens(own):
    """A weight that is not finite spoils every answer from the first token on, and each of them says so."""
    path = next(
        path for path in sorted(own.glob("*.safetensors")) if any("fc1.weight" in name for name in load_file(path))
    )
    spoilt = {
        name: np.full_like(values, np.nan) if "fc1.weight" in name else values
        for name, values in load_file(path).items()
    }
    save_file(spoilt, path, metadata={"format": "pt"})
    assert started(own).answer(requests((8, 4), (3, 2))) == ((NOT_FINITE,) * 4, (NOT_FINITE,) * 2)
