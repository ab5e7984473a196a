"""The code that templates are compiled to: it folds nothing, and it can be stopped.

It calls back into `templates.Environment`: `begin` and `tick` for the time, `made` and `buffer` for
the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame

_Visit = Callable[[Any, Frame], None]


class Generator(CodeGenerator):
    """Generates code that evaluates nothing while compiling, and that can be stopped."""

    _in_root = False

    def _output_child_to_const(self, node: nodes.Expr, frame: Any, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        """A body: of the template, a loop, a macro, a block, a condition."""
        # The first block is the template itself; the others belong to loops, macros and the like.
        self.writeline("environment.tick()" if self._in_root else "environment.begin()")
        self._in_root = True
        super().blockvisit(nodes, frame)

    def buffer(self, frame: Frame) -> None:
        """Where a frame collects its text."""
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.buffer()")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        """A loop; one whose `if` refuses everything has no rounds, and takes its time too."""
        if node.test is not None:
            tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            node.test = nodes.And(nodes.Not(tick), node.test)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """The `~` operator."""
        self.write("environment.concat_text((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        """A list; like the others below, it may hold the same large value many times."""
        self._measured(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        """An object."""
        self._measured(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        """A tuple, unless it is a list of names to assign to."""
        if node.ctx == "load":
            self._measured(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        """An item, or a slice, which is a copy."""
        if isinstance(node.arg, nodes.Slice):
            self._measured(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _measured(self, visit: _Visit, node: nodes.Node, frame: Frame) -> None:
        self.write("environment.made(")
        visit(node, frame)
        self.write(")")


class Names(Generator):
    """Finds the names that a template takes from outside, as `jinja2.meta` does."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env, None, None)
        self.found: set[str] = set()

    def write(self, x: str) -> None:
        """Nothing is generated."""

    def enter_frame(self, frame: Frame) -> None:
        """Note what a frame resolves."""
        super().enter_frame(frame)
        loads = frame.symbols.loads.values()
        self.found.update(name for action, name in loads if action == "resolve" and name)
