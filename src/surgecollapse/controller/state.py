"""The state of a controller: taken, checked, and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.randomness import Generators
from surgecollapse.controller.command_handlers import CommandHandlers
from surgecollapse.controller.decision_loop import DecisionLoop
from surgecollapse.controller.optimizer_step import OptimizerSteps
from surgecollapse.controller.rank_agreement import RankAgreement
from surgecollapse.events import from_dict, to_dict
from surgecollapse.observe.watch import Watch
from surgecollapse.policies.version_01 import class_of
from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.modules import snapshot

STATE_VERSION = 2
_NOT_ALWAYS = ("watch", "interventions", "shadow", "probes")


class ControllerState:
    """Everything of a controller that a bitwise resume needs.

    Args:
        loop: the decision loop.
        steps: what is done around optimizer steps.
        handlers: of commands.
        agreement: the probe batches.
        random: generators by role.
        noise: the input noise.
        watch: runs the monitors; ``None`` without any.
    """

    def __init__(
        self,
        loop: DecisionLoop,
        steps: OptimizerSteps,
        handlers: CommandHandlers,
        agreement: RankAgreement,
        *,
        random: Mapping[str, Generators],
        noise: InputNoise,
        watch: Watch | None,
    ) -> None:
        self._loop, self._steps, self._handlers, self._agreement = loop, steps, handlers, agreement
        self._random, self._noise, self._watch = random, noise, watch

    def take(self, *, resolved: bool) -> dict[str, Any]:
        """The state now; its tensors are those in use.

        Args:
            resolved: whether it is known which weights are prunable.
        """
        loop, changed = self._loop, self._handlers.state_dict()
        return {
            "version": STATE_VERSION,
            "plan": to_dict(self._handlers.given_plan),
            "policy": {"name": type(loop.policy).__name__, "state": loop.policy.state_dict()},
            "step": loop.step,
            "phase": loop.phase,
            "finalized": loop.finalized,
            "resolved": resolved,
            "engine": loop.components.state_dict(),
            **self._agreement.state_dict(),
            "random": {role: generators.state_dict() for role, generators in self._random.items()},
            "noise_std": self._noise.std,
            "decision": None if loop.decision is None else to_dict(loop.decision),
            "transforms": self._steps.state_dict(),
            "events": [to_dict(event) for event in loop.events],
            **({} if self._watch is None else {"watch": self._watch.state_dict()}),
            **({"interventions": changed} if changed else {}),
        }

    def restore(
        self,
        state: Mapping[str, Any],
        build: Callable[[Dataflow | None, Mapping[str, Any]], None],
        *,
        check: bool,
    ) -> None:
        """Put a state back.

        Args:
            state: what :meth:`take` returned, of any process.
            build: makes the loop's components anew, from what a forward pass showed of the model and their state.
            check: refuse masks that close weights which have a value.

        Raises:
            ValueError: if the state is foreign.
        """
        self._check(state)
        state, loop = snapshot(state), self._loop
        components = state["engine"]
        if check:
            loop.components.check_masks(components)
        self._agreement.load_state_dict(state)
        loop.components.observer.disarm()
        found = components["dataflow"]
        build(None if found is None else Dataflow.from_dict(found), components)
        loop.components.load_state_dict(components)
        for role, generators in self._random.items():
            generators.load_state_dict(state["random"][role])
        self._handlers.load_state_dict(state.get("interventions", {}))
        loop.policy.load_state_dict(state["policy"]["state"])
        self._steps.load_state_dict(state["transforms"])
        loop.step, loop.phase, loop.finalized = state["step"], state["phase"], state["finalized"]
        loop.schedule.restart(loop.step)
        loop.decision = None if state["decision"] is None else from_dict(state["decision"])
        loop.events = [from_dict(event) for event in state["events"]]
        self._noise.std = state["noise_std"]
        if self._watch is not None and "watch" in state:
            self._watch.load_state_dict(state["watch"])

    def _check(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or not {"version", "engine", "policy"} <= set(state):
            raise ValueError("this is not the state of a surgecollapse controller: pass what state_dict() returned")
        if state["version"] != STATE_VERSION:
            raise ValueError(f"controller state has version {state['version']}, this library reads {STATE_VERSION}")
        here = {**self.take(resolved=True), **self._loop.components.state_dict()}
        if missing := sorted(set(here) - {*state, *state["engine"], *_NOT_ALWAYS}):
            raise ValueError(f"this controller state lacks {', '.join(missing)}: the checkpoint is damaged")
        name = type(self._loop.policy).__name__
        if class_of(state["policy"]["name"]) != name:
            raise ValueError(f"this state belongs to the policy {state['policy']['name']}, but {name} is attached")
        given = self._handlers.given_plan
        if (plan := from_dict(state["plan"])) != given:
            raise ValueError(f"this state was saved under {plan}, but this controller was attached with {given}")
