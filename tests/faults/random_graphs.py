"""Random graphs that use the whole language, and a plain evaluator that says how each of their processes ends.

To add a feature: a field of `Step`, a line in `steps` that draws it, a line in `evaluated` that says what it means, and
one in `Realization` that says it to pmflow. The evaluator goes through the steps in their order and knows nothing of
schedules; what a step returns depends on its name and on what it receives, so a value says where it comes from.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

from hypothesis import strategies as st

import pmflow
from pmflow import Graph, Limit, ProcessResult, ProcessState, RetryStrategy, command, cross, process

DONE, FAILED, SKIPPED = ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED

SINGLE, LIST, TUPLE, MAP = "single", "list", "tuple", "map"
FORGIVING = {"result", "results"}


class Ask(NamedTuple):
    """One thing that a step wants: by which kind of parameter, of which source; of several, the first with a value."""

    kind: str  # value, default, result, results, after
    sources: tuple[str, ...]
    each: bool = False

    def reached(self, given: set[str]) -> tuple[str, ...]:
        """Return its sources without those behind an input or an override, which always have a value."""
        first = next((n for n, source in enumerate(self.sources) if source in given), len(self.sources))
        return self.sources[: first + 1]


class Step(NamedTuple):
    """One process of a random graph."""

    name: str
    asks: tuple[Ask, ...] = ()
    over: str = ""  # what it is mapped by: zip, cross
    shape: str = ""  # maps of one shape have as many elements
    gives: str = SINGLE
    failures: int = 0
    bad: tuple[int, ...] = ()  # which elements fail
    retries: int = 0
    required: bool = True
    fallback: int | None = None
    when: int = 0  # says no to one of so many values
    outputs: tuple[str, ...] = ()
    strategy: str = "inline"
    limit: Any = None
    cpus: int = 1

    def wants(self) -> list[tuple[str, Ask]]:
        """Return its parameters, and what feeds them."""
        return [(f"p{number}", ask) for number, ask in enumerate(self.asks) if ask.kind != "after"]

    def fails(self, index: int | None, attempt: int) -> bool:
        return attempt <= self.failures and (index is None or index in self.bad)

    def holds(self, received: dict[str, Any]) -> bool:
        return not self.when or number_of(self.name, received) % self.when > 0

    def returns(self, received: dict[str, Any], length: int) -> Any:
        number = number_of(self.name, received)
        if self.strategy == "command":
            return " ".join(str(value) for value in received.values()) + "\n"
        if self.outputs:
            return tuple(number + each for each in range(len(self.outputs)))
        return [number + each for each in range(length)] if self.gives == LIST else number


def number_of(name: str, received: dict[str, Any]) -> int:
    return crc32(repr((name, sorted(received.items()))).encode())


class Drawn(NamedTuple):
    """A random graph, and how it is run."""

    steps: tuple[Step, ...]
    length: int
    overrides: dict[str, Any]
    targets: tuple[str, ...] | None
    keep: str | None
    threads: int

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs that some step asks for."""
        given = {"i": 7, "n": list(range(self.length)), "m": list(range(100, 100 + self.length))}
        asked = {source for step in self.steps for ask in step.asks for source in ask.sources}
        return {name: value for name, value in given.items() if name in asked}


INPUTS = frozenset("inm")


# Drawing


class Known(NamedTuple):
    """What a step may ask for."""

    name: str
    gives: str
    shape: str = ""
    is_output: bool = False


KINDS = {SINGLE: ("value", "default", "result", "after", "results"), LIST: ("value", "default", "result", "after")}
KINDS |= {TUPLE: ("result", "after"), MAP: ("value", "default", "result", "results", "after")}


@st.composite
def asks(draw: st.DrawFn, known: list[Known]) -> tuple[Ask, ...]:
    found = []
    chosen = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    for source in chosen:
        if source.name in INPUTS:
            kinds: tuple[str, ...] = ("value",)
        else:
            kinds = (
                ("value", "default", "results", "after") if source.is_output and source.shape else KINDS[source.gives]
            )
        kind = draw(st.sampled_from(kinds))
        sources = [source.name]
        if kind in ("value", "default", "result") and draw(st.integers(0, 3)) == 0:
            others = [each for each in known if each not in chosen and not (each.is_output and each.shape)]
            others = [each for each in others if each.gives != TUPLE and (kind != "result" or each.name not in INPUTS)]
            if others and not (source.is_output and source.shape):
                sources += [each.name for each in draw(st.lists(st.sampled_from(others), max_size=2, unique=True))]
        found.append(Ask(kind, tuple(sources)))
    others = [each.name for each in known if each.name not in INPUTS]
    if others and draw(st.integers(0, 5)) == 0:  # of the same source, too
        found.append(Ask("after", (draw(st.sampled_from(others)),)))
    return tuple(found)


@st.composite
def maps(draw: st.DrawFn, known: list[Known], name: str) -> tuple[str, str, tuple[Ask, ...]]:
    """Return by what a step is mapped, its shape, and what it goes over."""
    lists = [each for each in known if each.gives in (LIST, MAP)]
    over = draw(st.sampled_from(("zip", "zip", "cross")))
    first = draw(st.sampled_from(lists))
    if over == "zip":
        lists = [each for each in lists if each.shape == first.shape]
    others = draw(st.lists(st.sampled_from(lists), max_size=1 if over == "cross" else 2, unique=True))
    found = []
    for source in dict.fromkeys([first, *others]):
        kinds = ("value", "default", "result") if source.gives == MAP else ("value",)
        found.append(Ask(draw(st.sampled_from(kinds)), (source.name,), each=True))
    return over, name if over == "cross" else first.shape, tuple(found)


@st.composite
def steps(draw: st.DrawFn, number: int, known: list[Known], strategies: tuple[str, ...]) -> Step:
    name = f"p{number}x"
    over, shape, each = draw(maps(known, name)) if draw(st.integers(0, 2)) == 0 else ("", "", ())
    left = [source for source in known if all(source.name not in ask.sources for ask in each)]
    wanted = (*each, *draw(asks(left)))
    strategy = draw(st.sampled_from(strategies))
    if strategy == "command":
        plain = {source.name for source in known if source.gives == SINGLE}
        wanted = tuple(ask for ask in wanted if ask.kind == "value" and not ask.each and plain.issuperset(ask.sources))
        return Step(name, wanted, strategy=strategy, required=draw(st.booleans()))
    gives = MAP if over else draw(st.sampled_from((SINGLE, SINGLE, LIST)))
    outputs = (f"{name}a", f"{name}b") if gives != LIST and draw(st.integers(0, 4)) == 0 else ()
    has_fallback = not outputs and gives != LIST and draw(st.integers(0, 5)) == 0
    return Step(
        name=name,
        asks=wanted,
        over=over,
        shape=shape or ("n" if gives == LIST else ""),
        gives=TUPLE if outputs and not over else gives,
        failures=draw(st.sampled_from((0, 0, 1, 3))),
        bad=tuple(sorted(draw(st.sets(st.integers(0, 5), max_size=3)))),
        retries=draw(st.sampled_from((0, 0, 1, 2))),
        required=draw(st.booleans()),
        fallback=5 if has_fallback else None,
        when=draw(st.sampled_from((0, 0, 0, 2))),
        outputs=outputs,
        strategy=strategy,
        limit=draw(st.sampled_from((None, None, None, 1, 2, "named", "shared"))),
        cpus=draw(st.sampled_from((1, 1, 1, 2, 50))),
    )


@st.composite
def graphs(draw: st.DrawFn, strategies: tuple[str, ...], most: int = 10) -> Drawn:
    length = draw(st.integers(0, 4))
    known = [Known("i", SINGLE), Known("n", LIST, "n"), Known("m", LIST, "n")]
    found: list[Step] = []
    for number in range(draw(st.integers(1, most))):
        step = draw(steps(number, known, strategies))
        found.append(step)
        known.append(Known(step.name, step.gives if not (step.over and step.outputs) else TUPLE, step.shape))
        known += [Known(name, MAP if step.over else SINGLE, step.shape, is_output=True) for name in step.outputs]
    names = [each.name for each in known if each.name not in INPUTS]
    plain = {step.name: step for step in found if not step.outputs and (not step.over or step.shape == "n")}
    overrides: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from([*plain]), max_size=2, unique=True)) if plain else ():
        is_list = plain[name].gives in (LIST, MAP)
        overrides[name] = list(range(50, 50 + length)) if is_list else 50
    return Drawn(
        steps=tuple(found),
        length=length,
        overrides=overrides,
        targets=draw(st.none() | st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).map(tuple)),
        keep=draw(st.sampled_from((None, "all", "targets"))),
        threads=draw(st.integers(1, 3)),
    )


# The reference


class End(NamedTuple):
    """How a process, or an element of one, ends, and what that means to others: a value, no value or a failure."""

    state: ProcessState
    means: str
    value: Any = None
    elements: list[End] | None = None
    attempts: int = 0
    fails_run: bool = False
    lacks: bool = False  # of a map: elements failed, and all who ask for it handle that

    def as_result(self) -> Any:
        return "result", self.state.value, self.value if self.state is DONE else None

    def for_an_output(self, number: int) -> End:
        if self.elements is not None:
            return whole([each.for_an_output(number) for each in self.elements])
        if self.means == "value":
            return End(DONE, "value", self.value[number], attempts=1)
        return End(SKIPPED, self.means)


def whole(elements: list[End], *, required: bool = False) -> End:
    """Return the end of a map by those of its elements."""
    values = [each.value for each in elements if each.means == "value"]
    if any(each.fails_run for each in elements):
        return End(FAILED, "failure", values, elements)
    if any(each.state is SKIPPED and each.means == "failure" for each in elements):
        return End(SKIPPED, "failure", values, elements)
    return End(DONE, "value", values, elements, lacks=required and any(each.state is FAILED for each in elements))


class Reference:
    """How every process of a graph ends."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.steps = {step.name: step for step in drawn.steps}
        self.producers = {name: step.name for step in drawn.steps for name in step.outputs}
        self.given = {*INPUTS, *drawn.overrides}
        self.needed = self.ancestors()
        self.ends: dict[str, End] = {name: End(DONE, "value", value) for name, value in drawn.inputs.items()}
        for step in drawn.steps:
            if step.name not in self.needed:
                continue
            self.ends[step.name] = end = self.replaced(step) if step.name in drawn.overrides else self.evaluated(step)
            self.ends |= {name: end.for_an_output(number) for number, name in enumerate(step.outputs)}

    def targets(self) -> set[str]:
        """Return what is asked for: by default what nothing else asks for."""
        asked = {source for step in self.drawn.steps for ask in step.asks for source in ask.sources}
        names = {name for step in self.drawn.steps for name in (step.outputs or (step.name,))}
        return names - asked if self.drawn.targets is None else {*self.drawn.targets}

    def ancestors(self) -> set[str]:
        """Return the processes that run: those asked for, and all they need."""
        drawn = self.drawn
        everything = drawn.targets is None and not drawn.overrides
        waiting = [*self.steps, *self.producers] if everything else [*self.targets()]
        needed: set[str] = set()
        while waiting:
            name = waiting.pop()
            step = self.steps[self.producers.get(name, name)]
            if step.name not in needed:
                needed |= {step.name, *step.outputs}
                if step.name not in drawn.overrides:
                    waiting += {source for ask in step.asks for source in ask.reached(self.given)} - INPUTS
        return needed

    def handles(self, name: str) -> bool:
        """Whether all that ask for a process take its result, or have another candidate; its outputs only hand on."""
        forgives = [
            ask.kind in FORGIVING or source != ask.reached(self.given)[-1]
            for step in self.drawn.steps
            if step.name in self.needed and step.name not in self.drawn.overrides
            for ask in step.asks
            for source in ask.reached(self.given)
            if source == name
        ]
        forgives += [self.handles(output) for output in (self.steps[name].outputs if name in self.steps else ())]
        return bool(forgives) and all(forgives)

    def replaced(self, step: Step) -> End:
        value = self.drawn.overrides[step.name]
        return End(DONE, "value", value, [End(DONE, "value", each) for each in value] if step.over else None)

    def evaluated(self, step: Step) -> End:
        received: dict[str, Any] = {}
        wants = {name: ask for name, ask in step.wants() if ask.each}
        sequences = {name: self.sequence(step, ask) for name, ask in wants.items()}
        refusals = [each for each in sequences.values() if isinstance(each, str)]
        refusals += [self.asked(f"p{number}", ask, received) for number, ask in enumerate(step.asks) if not ask.each]
        refused = refusal(refusals)
        if refused or not step.over:
            return refused or self.called(step, received, None)
        rows = zip(*sequences.values()) if step.over == "zip" else itertools.product(*sequences.values())  # noqa: B905 - equal
        ends = []
        for index, row in enumerate(rows):
            values = dict(received)
            refusals = [taken(ask.kind, name, end, values) for (name, ask), end in zip(wants.items(), row, strict=True)]
            ends.append(refusal(refusals) or self.called(step, values, index))
        return whole(ends, required=step.required)

    def sequence(self, step: Step, ask: Ask) -> list[End] | str:
        """Return the elements that a map goes over, or what keeps it from beginning."""
        source = ask.sources[0]
        end = self.ends[source]
        mapped = source not in INPUTS and self.steps[self.producers.get(source, source)].over
        along = step.over == "zip" and mapped and source not in self.drawn.overrides
        if along or (ask.kind == "result" and end.elements is not None):
            return end.means if end.elements is None else end.elements
        return [End(DONE, "value", each) for each in end.value] if end.means == "value" else end.means

    def asked(self, name: str, ask: Ask, received: dict[str, Any]) -> str:
        """Receive what a parameter asks for; return what speaks against it."""
        *others, last = ask.reached(self.given)
        having = (source for source in others if self.ends[source].means == "value" and not self.ends[source].lacks)
        chosen = next(having, last)
        return taken(ask.kind, name, self.ends[chosen], received)

    def called(self, step: Step, received: dict[str, Any], index: int | None) -> End:
        if not step.holds(received):
            return End(SKIPPED, "nothing")
        attempts = 1 + next(n for n in itertools.count() if n == step.retries or not step.fails(index, n + 1))
        if not step.fails(index, attempts):
            return End(DONE, "value", step.returns(received, self.drawn.length), attempts=attempts)
        if step.fallback is not None:
            return End(DONE, "value", step.fallback, attempts=attempts)
        fails_run = step.required and not self.handles(step.name)
        return End(FAILED, "failure" if fails_run else "nothing", attempts=attempts, fails_run=fails_run)


def taken(kind: str, name: str, end: End, received: dict[str, Any]) -> str:
    """Receive from an end what a kind of parameter takes of it; return what speaks against it."""
    if kind == "result":
        received[name] = end.as_result()
    elif kind == "results":
        received[name] = [each.as_result() for each in (end.elements if end.elements is not None else [end])]
    elif end.means == "failure":
        return "failure"
    elif kind == "after":
        return ""
    elif end.means == "nothing" and kind != "default":
        return "nothing"
    else:
        received[name] = end.value if end.means == "value" else "default"
    return ""


def refusal(found: list[str]) -> End | None:
    """Return the end of what cannot run: the worst decides."""
    return next((End(SKIPPED, worst) for worst in ("failure", "nothing") if worst in found), None)


# The real thing


def act(step: Step, length: int, received: dict[str, Any]) -> Any:
    """Do what a step does."""
    here = pmflow.current()
    if step.fails(here.index, here.attempt):
        raise OSError(step.name)
    return step.returns(shown(received), length)


def shown(received: dict[str, Any]) -> dict[str, Any]:
    """Show results as what the evaluator knows of them."""
    return {name: seen(value) for name, value in received.items()}


def seen(value: Any) -> Any:
    if isinstance(value, ProcessResult):
        return "result", value.state.value, value.data if value.success else None
    if isinstance(value, list) and value and isinstance(value[0], ProcessResult):
        return [seen(each) for each in value]
    return value


def holds(step: Step, received: dict[str, Any]) -> bool:
    return step.holds(shown(received))


WRITTEN = {"value": "", "default": "='default'", "result": ": ProcessResult", "results": ": list[ProcessResult]"}
TYPES = {"coroutine": "async", "inline": "async", "thread": "thread", "worker": "process"}


class Realization:
    """The processes of a random graph."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.limit = Limit(2)
        self.graph = Graph([self.process(step) for step in drawn.steps])

    def run(self) -> pmflow.Run[Any]:
        drawn = self.drawn
        return pmflow.run(
            self.graph,
            inputs=drawn.inputs,
            overrides=drawn.overrides,
            targets=drawn.targets,
            keep=drawn.keep,  # type: ignore[arg-type]
            max_threads=drawn.threads,
            limits={"named": 2},
            on_error="return",
        )

    def process(self, step: Step) -> Any:
        feeds: dict[str, Any] = {"after": [ask.sources[0] for ask in step.asks if ask.kind == "after"]}
        plain = [(name, ask) for name, ask in step.wants() if not ask.each]
        feeds["dependencies"] = {name: ask.sources if len(ask.sources) > 1 else ask.sources[0] for name, ask in plain}
        settings: dict[str, Any] = {"id": step.name, "required": step.required, **feeds}
        if step.strategy == "command":
            return command(["/bin/echo", *(f"{{{name}}}" for name, _ in plain)], **settings)
        if step.over:
            sources = {name: ask.sources[0] for name, ask in step.wants() if ask.each}
            settings["map_over"] = cross(**sources) if step.over == "cross" else sources
        if step.fallback is not None:
            settings["fallback"] = step.fallback if step.fallback % 2 else lambda error: step.fallback
        if step.when:
            settings["when"] = self.function(step, partial(holds, step), "def")
        return process(
            self.function(
                step, partial(act, step, self.drawn.length), "async def" if step.strategy == "coroutine" else "def"
            ),
            type=TYPES[step.strategy],
            retries=RetryStrategy(max_retries=step.retries, delay_seconds=0),
            outputs=step.outputs,
            limit=self.limit if step.limit == "shared" else step.limit,
            cpus=step.cpus,
            **settings,
        )

    @staticmethod
    def function(step: Step, body: Any, how: str) -> Any:
        """Return a function with the parameters of a step."""
        parameters = sorted((name + WRITTEN[ask.kind] for name, ask in step.wants()), key=lambda each: "=" in each)
        names: dict[str, Any] = {"body": body, "ProcessResult": ProcessResult}
        exec(f"{how} {step.name}({', '.join(parameters)}): return body(locals())", names)  # noqa: S102 - the text is ours
        return names[step.name]


# The comparison


def agree(what: str, found: dict[str, Any], said: dict[str, Any]) -> None:
    """Fail where the run and the evaluator do not agree, and say where."""
    names = [name for name in {**found, **said} if name not in found or name not in said or found[name] != said[name]]
    differences = [f"{name}: {found.get(name, 'not there')}, not {said.get(name, 'there')}" for name in names]
    assert not names, f"{what}: {'; '.join(differences)}"


def compare(drawn: Drawn) -> None:
    """Run a graph, and compare every end with what the evaluator says."""
    reference = Reference(drawn)
    run = Realization(drawn).run()
    ends = {name: end for name, end in reference.ends.items() if name not in INPUTS}
    agree("states", {name: run[name].state for name in run}, {name: end.state for name, end in ends.items()})
    singles = {name: end for name, end in ends.items() if end.elements is None}
    elements = {
        f"{name}_{index}": element
        for name, end in ends.items()
        if name not in drawn.overrides
        for index, element in enumerate(end.elements or ())
    }
    agree("states", {name: run[name].state for name in elements}, {name: end.state for name, end in elements.items()})
    every = {**singles, **elements}
    calls = {name: end.attempts for name, end in every.items() if end.attempts}
    agree("attempts", {name: run[name].attempts for name in calls}, calls)
    agree(
        "failures",
        dict.fromkeys(run.failures),
        dict.fromkeys(name for name, end in every.items() if end.state is FAILED),
    )
    agree("success", {"run": run.success}, {"run": not any(end.fails_run for end in every.values())})
    all_kept = drawn.keep == "all" or (drawn.keep is None and drawn.targets is None)
    values = {
        name: ends[name].value for name in (ends if all_kept else reference.targets()) if ends[name].state is DONE
    }
    agree("values", {name: run[name].data for name in values}, values)
