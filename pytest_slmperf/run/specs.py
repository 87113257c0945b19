"""Which engines a suite means: those that it gives, or those of the models that its sweep names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.run.options import OptionValue, planted_loss, pool_of
from pytest_slmperf.run.settings import Settings


@dataclass(frozen=True, slots=True)
class Engines:
    """What the command line and the settings say of every engine of a run."""

    default: str
    """Its name."""
    options: Mapping[str, OptionValue]
    """Of the command line or, with the engine, of the settings, for whichever is measured; `slowed` plants a loss."""
    settings: Settings

    def engine(
        self,
        model: str | None = None,
        *,
        dtype: str | None = None,
        threads: int | None = None,
        engine: str | None = None,
        **options: OptionValue,
    ) -> EngineSpec:
        """See the fixture `slm_engine`. Raises UsageError."""
        given = {**self.options, **options}
        if model is None:
            raise UsageError(
                "slm_engine() needs a model: a name of the table of shapes, or the path of a converted model"
            )
        planted = planted_loss(given.pop("slowed", 0.0))
        pool, given = pool_of(given)
        return EngineSpec(
            engine=engine or self.default,
            model=model,
            dtype=dtype or self.settings.dtype,
            threads=threads or self.settings.threads,
            options=given,
            planted_loss=planted,
            pool=pool,
        )

    def of(self, sweep: Sweep, given: object = None) -> tuple[EngineSpec, ...]:
        """The engines that measure a sweep: one, several, or what makes them of its models; by default these.

        Raises UsageError for anything else, and for a sweep that names no model where it would have to.
        """
        if isinstance(given, EngineSpec):
            return (given,)
        if given is None or callable(given):
            if not sweep.model:
                raise UsageError(
                    f"sweep {sweep.name!r} names no model: measure(sweep, slm_engine(MODEL)), model=[…] in the sweep, "
                    f"or `model` in [tool.slmperf]"
                )
            make = given if callable(given) else self.engine
            return tuple(make(model) for model in sweep.model)
        if isinstance(given, Iterable):
            specs = tuple(given)
            if specs and all(isinstance(spec, EngineSpec) for spec in specs):
                return specs
        raise UsageError(
            f"measure({sweep.name!r}, …) takes an engine, several engines, or the fixture slm_engine itself"
        )
