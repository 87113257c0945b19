"""The key of a case: what its samples hold for, and a stored sample has to match."""

from dataclasses import fields

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import LaunchRecord, RoundPolicy
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.sweeps.search import SHARE_KEY
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.engines.lengths import workload_key

OF_NO_MEASUREMENT = ("device_index", "start_limit_s", "request_limit_s", "log", "key_env", "ca", "ready")
"""Options that change nothing of what is measured: which of several boards (the machine knows it, and any board of a
model is as fast), how long is waited, how a server is let in to and when it is ready, where its log goes."""
METHOD = 2
"""How values are measured. Counted up where a change makes old samples incomparable with new ones."""


def case_key(
    sweep: Sweep, record: LaunchRecord, policy: RoundPolicy, *, with_joules: bool = False
) -> dict[str, object]:
    """What the samples of a launch hold for: a baseline whose key differs in any field is incomparable. `with_joules`
    says that throughput is read from the stretch in which joules are counted.
    """
    facts, spec = record.facts, record.spec
    of_pool = _pool_key(spec.pool)
    return {
        "engine": spec.engine,
        "engine_version": facts.version,
        "model": spec.model_name,
        "weights": facts.weights,
        "device": facts.device,
        "dtype": facts.dtype,
        "threads": spec.threads,
        "method": METHOD,
        **{f"option.{name}": value for name, value in spec.options.items() if name not in OF_NO_MEASUREMENT},
        **{f"setting.{name}": value for name, value in facts.settings.items() if name not in of_pool},
        **of_pool,
        **_beside_key(spec),
        **({"planted_loss": spec.planted_loss} if spec.planted_loss else {}),
        **({"timed": "with joules"} if with_joules else {}),
        **workload_key(sweep.workload, sweep.slo),
        **_search_key(sweep, policy),
    }


def _search_key(sweep: Sweep, policy: RoundPolicy) -> dict[str, object]:
    """Nothing where the places are listed. What a search finds hangs on how long requests may pile up in a probe."""
    if not sweep.search:
        return {}
    return {
        SHARE_KEY: sweep.search.share,
        "search.traffic_s": policy.traffic_s,
        "search.requests": policy.observed_requests,
    }


def _beside_key(spec: EngineSpec) -> dict[str, object]:
    """Nothing for a model that has its device to itself."""
    found: dict[str, object] = {}
    for number, one in enumerate(spec.beside, 1):
        threads, dtype = one.threads or spec.threads, one.dtype or spec.dtype
        on = f"{threads} thread{'s' * (threads > 1)} on {'its own' if one.cores == 'own' else 'the same'} cores"
        told = [f"{name}={value}" for name, value in one.options.items() if name not in OF_NO_MEASUREMENT]
        if one.slo:
            limits = ((limit.name, getattr(one.slo, limit.name)) for limit in fields(one.slo))
            told += [f"{name} at most {limit:g}" for name, limit in limits if limit is not None]
        name = one.name.rpartition("@")[0]
        found[f"beside_{number}"] = ", ".join((f"{name} {dtype}: {one.load}", on, *told))
    return found


def _pool_key(pool: Pool | None) -> dict[str, object]:
    """Nothing for an engine by itself. Where endpoints are is no matter of what is measured."""
    if pool is None:
        return {}
    told = {"resource": pool.resource or None, "memory_bytes": pool.memory_bytes, "power_limit_w": pool.power_limit_w}
    return {
        "replicas": pool.replicas,
        "pool": pool.kind,
        "spread": pool.spread,
        **{f"pool_{name}": value for name, value in told.items() if value is not None},
    }
