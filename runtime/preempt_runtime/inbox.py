"""Inbox: how other threads reach the dispatching one."""

from collections import deque
from collections.abc import Callable
from typing import Any

from preempt_runtime.clock import Wake


class Inbox:
    """Messages in the order in which they came; posting one wakes the dispatching thread.

    `messages` is empty when there is nothing to take in; only the dispatching thread drains.
    """

    __slots__ = ("messages", "wake")

    def __init__(self) -> None:
        self.messages: deque[tuple[Callable[[Any], None], Any]] = deque()
        self.wake = Wake()

    def post(self, action: Callable[[Any], None], item: object) -> None:
        """Have the dispatching thread call `action(item)` at the next preemption point."""
        self.messages.append((action, item))
        self.wake.set()

    def drain(self) -> None:
        """Call what was posted."""
        messages = self.messages
        while messages:
            action, item = messages.popleft()
            action(item)
