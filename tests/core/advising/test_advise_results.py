"""What recorded results say of a model's settings, and what is refused of them."""

import re
from fnmatch import fnmatchcase

import pytest
from mind_the_memory_gap import BACKGROUND, REPLICATION

from pytest_slmperf.core.advising.advice import Pays, advised
from pytest_slmperf.core.advising.question import (
    Evidence,
    Limit,
    Question,
    Seen,
    Series,
    Setting,
    metrics_of,
    objective_of,
)
from pytest_slmperf.core.advising.results import chosen, evidence_of, of_side, of_table
from pytest_slmperf.core.baselines.side import RecordedCase, Side
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import Measurement, Sample

HEADER = "model,gpu,max_num_seqs,replicas,total_tok_s,mean_itl_ms,J_per_total_tok,preemptions"
RATE, ITL = metric("total_token_throughput"), metric("itl_ms")
H100, A100 = Machine("NVIDIA H100", "580.65"), Machine("NVIDIA A100", "580.65")


def table(*more, header=HEADER):
    rows = [f"opt-1.3b,H100,{batch},1,{rate},{itl},{joules},0" for batch, rate, itl, joules in BACKGROUND]
    rows += [f"opt-1.3b,H100,{each},{many},{rate},{itl},{joules},0" for many, each, rate, itl, joules in REPLICATION]
    return "\n".join([header, *rows, *more]) + "\n"


def answer(text, question, **which):
    found = of_table(text, "table.csv")
    evidence = evidence_of(chosen(found.points, model=None, device=None, **which))
    return advised(question, evidence, tuple(evidence.seen))


def recorded(name, value=1000.0, *, machine=H100, void=None, launches=3, **key):
    samples = {"output_throughput": Sample.of([[value * (1 + 0.001 * launch)] * 3 for launch in range(launches)])}
    facts = {"engine": "vllm", "model": "opt-125m", "dtype": "float16", "threads": 1, "prompt_tokens": 128, **key}
    return RecordedCase("decode", Measurement(name, facts, {} if void else samples, void=void), machine, "2026-01-01")


# -- a table


def test_the_papers_table_answers_two_replicas():
    """Of 256 requests each, a third more than one instance at its largest batch, with an interval from the points that
    were launched twice."""
    found = answer(table(), Question(RATE))
    assert found.pick.setting == Setting(512, Series(replicas=2))
    assert found.beside.setting == Setting(768)
    assert found.gain.ratio == pytest.approx(1.333, abs=0.001)
    assert 1.28 < found.gain.low < found.gain.ratio < found.gain.high < 1.38
    assert found.replication.pays is Pays.YES
    assert found.replication.single == Setting(640)


def test_for_joules_replication_does_not_pay():
    """The paper's power rises with its throughput."""
    found = answer(table(), Question(metric("joules_per_total_token")))
    assert found.replication.pays is not Pays.YES
    assert found.pick.setting.series.replicas == 1


def test_a_limit_is_kept():
    """The best within it, and not the best."""
    found = answer(table(), Question(RATE, (Limit(ITL, 20.0),)))
    assert found.pick.setting == Setting(192, Series(replicas=2))
    assert found.pick.of(metric("itl_ms")) <= 20


def test_a_limit_that_nothing_keeps_names_the_nearest_and_by_how_much():
    """In the metric's unit, and as a share of the limit."""
    found = answer(table(), Question(RATE, (Limit(ITL, 3.0),)))
    assert found.pick is None
    assert found.nearest.setting == Setting(1)
    assert [str(miss) for miss in found.misses] == ["median_itl_ms 3.623 ms, at most 3 ms: 20.8% beyond it"]


def test_rows_with_preemptions_are_left_out_and_said():
    """Work that is done twice counts for nothing."""
    found = of_table(table("opt-1.3b,H100,256,4,99999,45,0.01,604"), "table.csv")
    assert max(point.samples["total_token_throughput"][0] for point in found.points) < 15_000
    assert any("604 preemptions" in remark for remark in found.remarks)
    assert any("mean_itl_ms, a mean, stands for median_itl_ms" in remark for remark in found.remarks)


def test_our_own_names_of_columns_do_too():
    """A table with a type, threads, and a batch of all replicas together."""
    text = "model,dtype,threads,replicas,batch,output_throughput\nm,int8,1,2,64,900\nm,int8,1,1,64,600\n"
    evidence = evidence_of(chosen(of_table(text, "t.csv").points, model="m", device=None))
    assert set(evidence.seen) == {Setting(64, Series("int8", 1, 2)), Setting(64, Series("int8", 1, 1))}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no table of results: it needs a header with one of max_num_seqs, max_bs, batch_each, batch_size"),
        ("a,b\n1,2\n", "no table of results"),
        ("model,batch\nm,1\n", "no table of results"),
        ("batch,out_tok_s\nmany,2\n", "t.csv, line 2: batch is 'many', and no number"),
        ("batch,out_tok_s\n1.5,2\n", "batch is 1.5, and no whole number"),
        ("batch,out_tok_s\n4,nan\n", "out_tok_s is nan, and no measurement has that value"),
        ("batch,out_tok_s\n4,0\n", "out_tok_s is 0, and no measurement has that value"),
        ("batch,out_tok_s\n,5\n", "line 2: it has no batch"),
    ],
)
def test_a_table_that_is_none_is_refused(text, said):
    """With the line and the column."""
    with pytest.raises(UsageError, match=r".*") as refused:
        of_table(text, "t.csv")
    assert said in str(refused.value)


# -- which of them


def test_several_models_or_machines_are_not_mixed():
    """No batch is compared across machines; a part of a name chooses."""
    points = of_table(table("opt-1.3b,A100,8,1,100,1,1,0", "opt-2.7b,H100,8,1,100,1,1,0"), "t.csv").points
    with pytest.raises(UsageError, match=r"several models: choose one, --model=opt-1\.3b"):
        chosen(points, model=None, device=None)
    with pytest.raises(UsageError, match="several machines, H100, A100: no batch is compared across machines"):
        chosen(points, model="opt-1.3b", device=None)
    assert len(chosen(points, model="opt-1.3b", device="a100")) == 1
    with pytest.raises(UsageError, match="nothing was measured on 'L4'; the results are of H100, A100"):
        chosen(points, model="opt-1.3b", device="L4")
    with pytest.raises(UsageError, match=r"nothing of opt-13b; they hold opt-1\.3b, opt-2\.7b"):
        chosen(points, model="opt-13b", device=None)
    with pytest.raises(UsageError, match="no case with a number of requests"):
        chosen((), model=None, device=None)


# -- reports and baseline files


def test_cases_are_settings_by_their_key_and_the_end_of_their_name():
    """Replicas, type and threads from the key; a place that counts for each replica is multiplied."""
    side = Side(
        "report.json",
        (
            recorded("decode/opt-125m/batch=64"),
            recorded("decode/opt-125m/replicas=2/batch-each=32", replicas=2, pool="mps", spread="even"),
            recorded("decode/opt-125m/replicas=2/batch=32", replicas=2, pool="mps", spread="even"),
        ),
    )
    evidence = evidence_of(chosen(of_side(side).points, model="opt-125m", device=None))
    assert list(evidence.seen) == [
        Setting(64, Series("float16", 1, 1)),
        Setting(64, Series("float16", 1, 2)),
        Setting(32, Series("float16", 1, 2)),
    ]
    assert all(len(one.values["output_throughput"]) == 3 for one in evidence.seen.values())


def test_what_is_void_varies_a_rate_or_had_others_beside_it_is_left_out_and_said():
    """With the reason."""
    mixed = recorded("d/m/beside=opt-1.3b@4/batch=1", beside_1="opt-1.3b float32: batch of 4, 32+32 tokens")
    side = Side(
        "report.json",
        (recorded("d/m/batch=1"), recorded("d/m/batch=2", void="throttled"), recorded("d/m/rate=2.5"), mixed),
    )
    found = of_side(side)
    assert [one.case for one in found.points] == ["d/m/batch=1"]
    assert found.remarks == (
        "left out: d/m/batch=2: void: throttled",
        "left out: d/m/rate=2.5: it varies no number of requests",
        "left out: d/m/beside=opt-1.3b@4/batch=1: it was measured beside other models",
    )


@pytest.mark.parametrize(
    ("machines", "said"),
    [
        ((H100, Machine("NVIDIA H100", "590.1")), "--device='NVIDIA H100 (driver 580.65)'"),
        ((H100, Machine("NVIDIA H100 NVL", "580.65")), "--device='NVIDIA H100 (driver 580.65)'"),
        ((H100, A100), "--device='NVIDIA H100'"),
    ],
)
def test_a_machine_is_chosen_by_what_tells_it_from_the_others(machines, said):
    """The device that is named is one of them, also where the driver alone differs."""
    side = Side("a", tuple(recorded(f"d/m/batch={at}", machine=one) for at, one in enumerate(machines, 1)))
    with pytest.raises(UsageError, match=re.escape(f"choose one, as in {said}")):
        chosen(of_side(side).points, model=None, device=None)
    named = said.partition("=")[2].strip("'")
    assert len(chosen(of_side(side).points, model=None, device=named)) == 1


def cases(*named):
    """One of each name, with its prompts' length."""
    return of_side(Side("a", tuple(recorded(name, prompt_tokens=prompt) for name, prompt in named))).points


ROWS = "task,batch,out_tok_s\n{},1,10\n{},2,20\n"


@pytest.mark.parametrize(
    ("points", "pattern"),
    [
        (cases(("d/m/batch=1", 8), ("d/m/batch=2", 8), ("e/m/batch=1", 16)), "'d/*'"),
        (cases(("d/m/batch=1", 8), ("e/m/batch=1", 16), ("e/m/batch=2", 16)), "'e/*'"),
        (cases(("d/m/x=1/batch=1", 8), ("d/m/x=2/batch=1", 16), ("d/m/x=2/batch=2", 16)), "'d/m/x=2/*'"),
        (cases(("d/m/batch=1", 8), ("d/m/batch=1", 16)), ""),
        (of_table(ROWS.format("a", "b"), "t.csv").points, ""),
        (
            (*of_table(ROWS.format("a", "a"), "t[1].csv").points, *of_table(ROWS.format("b", "b"), "u.csv").points),
            "'t[[]1].csv, *'",
        ),
    ],
)
def test_the_cases_to_choose_are_some_that_there_are(points, pattern):
    """And were measured alike; where no name tells them from the others, that is not said."""
    way_out = f"choose some, as in --case={pattern}" if pattern else "give results of one of both only"
    with pytest.raises(UsageError, match=re.escape(way_out)):
        chosen(points, model=None, device=None)
    named = pattern.strip("'")
    assert not pattern or chosen([one for one in points if fnmatchcase(one.case, named)], model=None, device=None)


def test_cases_that_were_not_measured_alike_are_refused():
    """Another workload is another question; what an engine resolved for a larger batch is not."""
    same = Side("a", (recorded("d/m/batch=1", **{"setting.kv": 1}), recorded("d/m/batch=2", **{"setting.kv": 2})))
    assert len(chosen(of_side(same).points, model=None, device=None)) == 2
    side = Side("a", (recorded("d/m/batch=1"), recorded("e/m/batch=1", prompt_tokens=64)))
    with pytest.raises(UsageError, match="not measured alike: prompt_tokens is 128 and 64; give results of one"):
        chosen(of_side(side).points, model=None, device=None)
    side = Side("a", (recorded("d/m/batch=1"), recorded("d/m/batch=2", machine=A100)))
    with pytest.raises(UsageError, match="several machines"):
        chosen(of_side(side).points, model=None, device=None)


# -- the answer


def seen(*settings):
    return Evidence({one: Seen(one, {RATE.name: values}) for one, values in settings})


def test_a_point_alone_and_a_metric_that_is_not_there_are_refused():
    """There is nothing to choose from."""
    one = seen((Setting(8), (100.0,)))
    with pytest.raises(UsageError, match="one point only, batch 8 of one instance"):
        advised(Question(RATE), one, tuple(one.seen))
    two = seen((Setting(8), (100.0,)), (Setting(16), (150.0,)))
    with pytest.raises(UsageError, match="no setting has mean_power_w; there is total_token_throughput"):
        advised(Question(RATE, (Limit(metric("mean_power_w"), 300),)), two, tuple(two.seen))
    with pytest.raises(UsageError, match="joules_per_output_token or joules_per_total_token; they have total_token"):
        objective_of("joules", metrics_of(two.seen.values()))
    with pytest.raises(UsageError, match="'speed' is neither throughput nor joules, and unknown metric"):
        objective_of("speed", ())


def test_without_repeated_launches_nothing_bounds_the_gain():
    """A figure, and no interval that nobody measured."""
    evidence = seen((Setting(8), (100.0,)), (Setting(16), (150.0,)), (Setting(16, Series(replicas=2)), (180.0,)))
    found = advised(Question(RATE), evidence, tuple(evidence.seen))
    assert (found.gain.low, found.gain.high) == (None, None)
    assert str(found.gain) == "+20.0% (each was launched once: nothing bounds it)"
    assert found.replication.pays is Pays.YES


@pytest.mark.parametrize(
    ("several", "pays"),
    [((120.0, 121.0, 119.0), Pays.YES), ((90.0, 91.0, 89.0), Pays.NO), ((101.0, 107.0, 98.0), Pays.UNSURE)],
)
def test_whether_replication_pays_is_judged_by_the_interval(several, pays):
    """It pays, it doesn't, or that can't be told."""
    evidence = seen((Setting(16), (100.0, 101.0, 99.0)), (Setting(16, Series(replicas=2)), several))
    assert advised(Question(RATE), evidence, tuple(evidence.seen)).replication.pays is pays


def test_without_several_replicas_nothing_is_said_of_replication():
    """Nor where only they keep the limits."""
    evidence = seen((Setting(16), (100.0,)), (Setting(32), (110.0,)))
    found = advised(Question(RATE), evidence, tuple(evidence.seen)).replication
    assert (found.pays, found.said) == (Pays.NOT_ASKED, "no setting of several replicas was measured")


def test_a_side_that_keeps_no_limit_decides_replication():
    """Where only several replicas keep them, they pay; where none of these does, they don't."""
    evidence = seen((Setting(16), (100.0,)), (Setting(16, Series(replicas=2)), (180.0,)))
    least, most = (Question(metric("total_token_throughput"), (Limit(RATE, bound),)) for bound in (150.0, 500.0))
    assert advised(least, evidence, tuple(evidence.seen)).replication.pays is Pays.YES
    assert advised(most, evidence, tuple(evidence.seen)).replication.pays is Pays.UNSURE
    evidence = seen((Setting(16), (200.0,)), (Setting(16, Series(replicas=2)), (100.0,)))
    assert advised(least, evidence, tuple(evidence.seen)).replication.pays is Pays.NO


def test_a_model_goes_by_its_hubs_name_or_the_last_part_of_it():
    """In a table as in a report."""
    points = of_table("model,batch,out_tok_s\norg/m,1,10\norg/m,2,19\n", "t.csv").points
    assert [len(chosen(points, model=name, device=None)) for name in ("org/m", "m", None)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("itl_ms", "'itl_ms' is not METRIC=VALUE"),
        ("itl_ms=fast", "is not METRIC=VALUE, as in itl_ms=40"),
        ("speed=4", "unknown metric 'speed'"),
        ("itl_ms=0", "a limit on median_itl_ms of 0: it takes a number above 0"),
        ("itl_ms=nan", "it takes a number above 0"),
    ],
)
def test_a_limit_that_is_none_is_refused(text, said):
    """With what it takes."""
    with pytest.raises(UsageError) as refused:
        Limit.parse(text)
    assert said in str(refused.value)
    with pytest.raises(UsageError, match="two limits on median_itl_ms"):
        Question(RATE, (Limit(ITL, 1), Limit(ITL, 2)))


def test_settings_say_what_they_are():
    """As one would to a colleague."""
    assert str(Setting(512, Series("float16", 0, 2))) == "batch 256 in each of 2 replicas, float16"
    assert str(Setting(9, Series(replicas=2))) == "batch 9 over 2 replicas"
    assert str(Setting(8, Series("int8", 1))) == "batch 8 of one instance, int8, 1 thread"
