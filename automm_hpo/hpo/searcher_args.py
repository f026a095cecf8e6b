"""The searchers by name: their arguments, the packages they need, the spaces they take. All of it is checked before anything starts.

Imports neither Ray nor torch, and of the searchers' libraries only Nevergrad, for the names of its optimizers; ``searchers`` builds the searchers.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import InvalidSpace, InvalidTuneSettings, NotSupported, Problems, did_you_mean
from ..sections import Expected, Flag, HyperField, NonNegativeFloat, NonNegativeInt, Number, PositiveFloat, PositiveInt, Section, Share, Text, fields_of
from ..space import Branches, Choice, Computed, Float, Int, Normal, SearchSpace, Space, exhaustive_keys, spaces_within

Percent = Annotated[int, Number, Field(ge=1, le=99), Expected("an integer in [1, 99]")]
Population = Annotated[int, Number, Field(ge=2), Expected("an integer >= 2")]


class BayesArgs(Section):
    """Arguments of Optuna's TPESampler, with Optuna's defaults except for ``n_startup_trials``."""

    n_startup_trials: NonNegativeInt
    """Random trials before the first that the model proposes; 4 by default, because a search has few trials."""
    n_ei_candidates: PositiveInt
    """Candidates drawn for each proposal."""
    multivariate: Flag
    """Model the hyperparameters together."""
    group: Flag
    """With multivariate: model hyperparameters that occur together as a group."""
    constant_liar: Flag
    """Assume bad scores for running trials, so that new ones are proposed away from them."""


class GpArgs(Section):
    """Arguments of Optuna's GPSampler, with Optuna's defaults except for ``n_startup_trials``."""

    n_startup_trials: NonNegativeInt
    """Random trials before the first that the model proposes; 4 by default, because a search has few trials."""
    deterministic_objective: Flag
    """Model no noise, because the same configuration always gets the same score."""


class CmaesArgs(Section):
    """Arguments of Optuna's CmaEsSampler, with Optuna's defaults."""

    n_startup_trials: NonNegativeInt
    """Random trials before the first generation."""
    popsize: Population
    """Trials per generation."""
    use_separable_cma: Flag
    """Learn no correlations between hyperparameters; for searches with many of them."""


class EvolutionArgs(Section):
    """Arguments of Optuna's NSGAIISampler, with Optuna's defaults except for ``population_size``."""

    population_size: Population
    """Trials per generation; 10 by default, because a search has few trials."""
    mutation_prob: Share
    """Probability that a hyperparameter is drawn anew; 1 / number of hyperparameters by default."""
    crossover_prob: Share
    """Probability that a trial has two parents."""
    swapping_prob: Share
    """Probability that a hyperparameter comes from the second parent."""


class QmcArgs(Section):
    qmc_type: Literal["sobol", "halton"]
    """The sequence; sobol by default."""
    scramble: Flag
    """Randomise the sequence by the seed, which keeps it evenly spread; True by default."""


class HyperoptArgs(Section):
    """Arguments of Hyperopt's tpe.suggest, named as in Ray's HyperOptSearch, with Hyperopt's defaults."""

    n_initial_points: NonNegativeInt
    """Random trials before the first that the model proposes."""
    gamma: Annotated[float, Number, Field(gt=0, lt=1), Expected("a float in (0, 1)")]
    """Fraction of the trials that count as good."""
    n_ei_candidates: PositiveInt
    """Candidates drawn for each proposal."""


class NevergradArgs(Section):
    optimizer: Text
    """Name of one of Nevergrad's optimizers; OnePlusOne by default."""
    budget: PositiveInt
    """Trials that the optimizer plans for, which some choose their strategy by; 100 by default. Not a limit."""


class BohbArgs(Section):
    """Arguments named as in HpBandSter, the implementation of the paper's authors."""

    min_points_in_model: PositiveInt
    """Good trials that a budget needs before it is modelled; the number of hyperparameters + 1 by default, and never less."""
    top_n_percent: Percent
    """Percentage of the trials that count as good; 15 by default."""
    num_samples: PositiveInt
    """Candidates drawn for each proposal; 64 by default."""
    random_fraction: Share
    """Share of proposals that are random; a third by default."""
    bandwidth_factor: PositiveFloat
    """Factor that widens the model's kernels when candidates are drawn; 3 by default."""
    min_bandwidth: PositiveFloat
    """Narrowest kernel, as a fraction of the range; 0.001 by default."""


class BayesoptArgs(Section):
    """Arguments of BayesianOptimization's utility function, and random_search_steps of Ray's BayesOptSearch."""

    kind: Literal["ucb", "ei", "poi"]
    """Upper confidence bound, expected improvement or probability of improvement; ucb by default."""
    kappa: NonNegativeFloat
    """How much ucb explores; 2.576 by default."""
    xi: NonNegativeFloat
    """How much ei and poi explore; 0 by default."""
    random_search_steps: PositiveInt
    """Random trials before the first that the model proposes; 10 by default."""


class ZooptArgs(Section):
    budget: Annotated[int, Number, Field(ge=4), Expected("an integer >= 4")]
    """Trials to plan for, which decides how many are random at first (4 for up to 50, 6 for up to 100, 12 for up to 1,000); 50 by default. Not a limit."""
    exploration_rate: Share
    """Share of later proposals that are random; 0.01 by default."""


class AxArgs(Section):
    """Arguments of Ax's generation strategy, with Ax's defaults."""

    initialization_budget: PositiveInt
    """Quasi-random trials before the first that the model proposes."""


class NoArgs(Section):
    pass


ARGS_OF: dict[str, type[Section]] = {
    "random": NoArgs,
    "grid": NoArgs,
    "bayes": BayesArgs,
    "gp": GpArgs,
    "cmaes": CmaesArgs,
    "evolution": EvolutionArgs,
    "qmc": QmcArgs,
    "hyperopt": HyperoptArgs,
    "nevergrad": NevergradArgs,
    "bohb": BohbArgs,
    "bayesopt": BayesoptArgs,
    "zoopt": ZooptArgs,
    "ax": AxArgs,
    "blendsearch": NoArgs,
    "cfo": NoArgs,
}
SEARCHER_ARGS: dict[str, dict[str, HyperField]] = {name: fields_of(section, "searcher_init_args.") for name, section in ARGS_OF.items()}
"""Name -> its arguments. To add a searcher: a class of arguments above, and an entry in ``SEARCHERS``."""

BLIND = ("random", "grid", "qmc")
"""Searchers that do not learn from results."""

SEARCHER_ALIASES = {
    "tpe": "bayes",
    "optuna": "bayes",
    "gaussian_process": "gp",
    "cma_es": "cmaes",
    "nsga2": "evolution",
    "nsgaii": "evolution",
    "sobol": "qmc",
    "bayesian_optimization": "bayesopt",
    "blend_search": "blendsearch",
    "flaml": "blendsearch",
    "tune_bohb": "bohb",
    "variant_generator": "random",  # Ray's name for it
    "bayesian": "bayes",
    "random_search": "random",
    "grid_search": "grid",
    "basicvariantgenerator": "random",
    "optunasearch": "bayes",
    "hyperoptsearch": "hyperopt",
    "bayesoptsearch": "bayesopt",
    "nevergradsearch": "nevergrad",
    "axsearch": "ax",
    "zooptsearch": "zoopt",
    "tunebohb": "bohb",
    "randomparametersampling": "random",  # HyperDrive's name, as the next two
    "gridparametersampling": "grid",
    "bayesianparametersampling": "bayes",
}

NOT_OFFERED = {
    "dragonfly": "the package dragonfly-opt does not run beside the numpy that torch and Ray need today. 'gp' serves instead, Gaussian processes too",
    "hebo": "the package HEBO does not install beside the numpy that torch and Ray need today. 'gp' serves instead, Gaussian processes too",
    "skopt": "Ray dropped scikit-optimize. 'gp' serves instead, Gaussian processes too",
}

PACKAGES = {
    "cmaes": ("cmaes", ""),
    "hyperopt": ("hyperopt", ""),
    "nevergrad": ("nevergrad", ""),
    "bayesopt": ("bayesian-optimization", "1.4."),  # later versions have another interface, and nevergrad needs this one
    "zoopt": ("zoopt", ""),
    "ax": ("ax-platform", "1."),
    "blendsearch": ("flaml", ""),
    "cfo": ("flaml", ""),
}
"""Searcher -> (distribution, prefix of its version). The extra in pyproject.toml has the searcher's name."""


def find_searcher(given: Any) -> Any:
    """The canonical name of a searcher given by a name or alias in any case; a Ray Searcher or an Optuna sampler is returned as it is.

    Raises:
        InvalidTuneSettings: there is no such searcher.
        NotSupported: the searcher is known, but not offered here.
    """
    if not isinstance(given, str):
        return _checked_object(given)
    name = given.lower().replace("-", "_").replace(" ", "_")
    name = SEARCHER_ALIASES.get(name, name)
    if (refused := name.removesuffix("search")) in NOT_OFFERED:
        raise NotSupported(f"searcher: {given!r} is not offered: {NOT_OFFERED[refused]}")
    if name not in SEARCHER_ARGS:
        hint = did_you_mean(given, [*SEARCHER_ARGS, *SEARCHER_ALIASES])
        raise InvalidTuneSettings(f"searcher: expected one of {', '.join(SEARCHER_ARGS)}, a Ray Searcher or an Optuna sampler, got {given!r}.{hint}")
    return name


def check_searcher(searcher: Any, args: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuses what would fail later: a package that is not installed, a space that the searcher does not take, an unknown optimizer.

    Args:
        searcher: what ``find_searcher`` returned.
        args: its checked arguments.

    Raises:
        NotSupported, InvalidSpace, InvalidTuneSettings, InvalidInput: all problems together.
    """
    problems = Problems()
    with problems.gather():
        check_package(searcher)
    with problems.gather():
        check_space(searcher, space)
    problems.raise_any()
    if "optimizer" in args:
        import nevergrad

        known = nevergrad.optimizers.registry
        if args["optimizer"] not in known:
            hint = did_you_mean(args["optimizer"], known)
            raise InvalidTuneSettings(f"searcher_init_args.optimizer: Nevergrad has no optimizer {args['optimizer']!r}, but {len(known)} others.{hint}")


def check_package(searcher: Any) -> None:
    """Refuses a searcher whose library cannot be used.

    Raises:
        NotSupported: the searcher's package is not installed, or has the wrong version.
    """
    package, version = PACKAGES.get(searcher, (None, "")) if isinstance(searcher, str) else (None, "")
    if package is None:
        return
    remedy = f"pip install 'automm-hpo[{searcher}]'"
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise NotSupported(f"searcher: {searcher!r} needs the package {package}, which is not installed: {remedy}") from None
    if not found.startswith(version):
        raise NotSupported(f"searcher: {searcher!r} needs {package} {version}x, found {found}: {remedy}")


def check_space(searcher: Any, space: SearchSpace) -> None:
    """Refuses spaces that a searcher does not take.

    Raises:
        NotSupported, InvalidSpace, InvalidInput: keys have spaces that the searcher cannot take; all problems together.
    """
    name = searcher if isinstance(searcher, str) else type(searcher).__name__
    problems = Problems()
    if name == "bayes" or is_sampler(searcher):
        for key in exhaustive_keys(space):
            problems.add(_no_grid_search(key, name))
    elif name not in ("random", "grid"):
        with problems.gather():
            plain_spaces(space, name)
    if name == "grid":
        endless = {key: domain for key, domain in spaces_within(space) if not isinstance(domain, (Branches, Computed)) and domain.num_points is None}
        for key, domain in endless.items():
            problems.add(InvalidSpace(f"{key}: the searcher 'grid' needs a finite space, got {domain}; use choice, randint or quniform, or searcher='random'"))
    if name == "cmaes" and sum(isinstance(domain, (Float, Int, Normal)) and domain.num_points != 1 for domain in space.values()) < 2:
        problems.add(NotSupported("the searcher 'cmaes' needs at least two numeric ranges to search; use 'bayes' or 'gp'"))
    problems.raise_any()


def is_searcher(given: Any) -> bool:
    """Whether it is a Ray ``Searcher``. Such objects exist only if Ray is already loaded, so it need not be imported here."""
    module = sys.modules.get("ray.tune.search")
    return module is not None and isinstance(given, module.Searcher)


def is_sampler(given: Any) -> bool:
    """Whether it is one of Optuna's samplers."""
    module = sys.modules.get("optuna.samplers")
    return module is not None and isinstance(given, module.BaseSampler)


def _checked_object(given: Any) -> Any:
    if is_sampler(given):
        return given
    if type(given).__name__ == "BasicVariantGenerator":
        raise InvalidTuneSettings("searcher: Ray's BasicVariantGenerator is searcher='random' here; its points_to_evaluate is a key beside it")
    if not is_searcher(given):
        raise InvalidTuneSettings(f"searcher: expected one of {', '.join(SEARCHER_ARGS)}, a Ray Searcher or an Optuna sampler, got {described(given)}")
    inner = given
    while True:
        name = type(inner).__name__
        if name == "Repeater":
            raise NotSupported(
                "searcher: a Repeater is not supported; pass the searcher that it wraps. To run each point of a noisy objective three times, add "
                "'repeat': tune.grid_search([0, 1, 2]) to its space, with searcher='random'. (The trials of a fit have one seed, and would be equal.)"
            )
        if any(isinstance(words, list) for words in (inner.metric, inner.mode)):
            raise NotSupported(f"searcher: {name} has several metrics; a search here has one: leave metric and mode out")
        if not is_searcher(getattr(inner, "searcher", None)):
            return given
        inner = inner.searcher


def described(given: Any) -> str:
    return f"the class {given.__name__}; make an object of it: {given.__name__}()" if isinstance(given, type) else f"{given!r} ({type(given).__name__})"


def plain_spaces(space: SearchSpace, searcher_name: str) -> dict[str, Space]:
    """The spaces for a searcher that takes only a flat set of them; computed values are left out.

    Raises:
        NotSupported, InvalidInput: keys have conditional spaces or grid_search; all problems together.
    """
    problems = Problems()
    plain: dict[str, Space] = {}
    for key, domain in space.items():
        if isinstance(domain, Branches):
            problems.add(
                NotSupported(f"{key}: the searcher {searcher_name!r} cannot take a conditional space; random, grid, bayes and sampler objects of Optuna's can")
            )
        elif isinstance(domain, Choice) and domain.exhaustive:
            problems.add(_no_grid_search(key, searcher_name))
        elif not isinstance(domain, Computed):
            plain[key] = domain
    problems.raise_any()
    return plain


def _no_grid_search(key: str, searcher_name: str) -> NotSupported:
    return NotSupported(f"{key}: the searcher {searcher_name!r} cannot take grid_search; random and grid can, and tune.choice samples the same options")
