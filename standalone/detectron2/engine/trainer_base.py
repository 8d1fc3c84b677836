"""The training loop with its hooks, without any idea of what one step does."""

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils.events import EventStorage

__all__ = ["HookBase", "TrainerBase"]


class HookBase:
    """Something that happens at fixed points of a training run.

    A trainer calls, for all its hooks in the order of registration::

        before_train()
        for each iteration:
            before_step()
            (forward, backward) after_backward() (update)
            after_step()
        after_train()

    Slow work belongs into ``after_step``: timers take ``before_step`` to be free.
    """

    trainer: "TrainerBase"
    """Weak proxy of the trainer, set when the hook is registered."""

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration, also when training failed."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called after the backward pass, before the parameters are updated."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What to store in checkpoints. A hook that returns entries needs ``load_state_dict``."""
        return {}


class TrainerBase:
    """An iterative training with hooks; subclasses say what one step is.

    Attributes:
        iter: index of the current iteration; equals ``max_iter`` once training has succeeded.
        start_iter, max_iter: range of the iterations, known from ``train`` on.
        storage: the event storage of the current or last ``train`` call.
    """

    storage: EventStorage
    max_iter: int

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Append hooks; they run in this order. None entries are left out.

        Raises:
            TypeError: an entry is not a hook.
        """
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            if not isinstance(hook, HookBase):
                raise TypeError(f"Hooks must be HookBase objects, got {hook!r}.")
            # A strong reference would tie trainer and hooks into a cycle that keeps GPU memory.
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations ``start_iter, ..., max_iter - 1``.

        ``after_train`` is called in any case; an exception is logged and raised again.
        """
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        """Call all hooks before the first iteration."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Call all hooks after the last iteration."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Call all hooks before an iteration. The storage shows this iteration from here on."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Call all hooks after a backward pass; ``run_step`` has to do this."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Call all hooks after an iteration."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError(f"{type(self).__name__} must implement run_step().")

    def state_dict(self) -> dict[str, Any]:
        """``iteration`` (the current one) and, if there is any, the state of ``hooks`` by class."""
        state: dict[str, Any] = {"iteration": self.iter}
        hook_states: dict[str, Any] = {}
        for hook in self._hooks:
            hook_state = hook.state_dict()
            if hook_state:
                hook_states.setdefault(type(hook).__qualname__, hook_state)
        if hook_states:
            state["hooks"] = hook_states
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore ``iter`` and the hooks. Training then goes on at ``iter + 1``."""
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning(
                    "Cannot find the hook '%s', its state_dict is ignored.", name
                )
            else:
                hook.load_state_dict(hook_state)
