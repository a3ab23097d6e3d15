"""Bodies of the task routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from karma.core.schemas import Body, FreeForm, Version, Whole, json_of_at_most, left_out, line
from karma.tasks.domain import (
    DEFAULT_PRIORITY,
    MAX_DESCRIPTION_CHARS,
    MAX_PRIORITY,
    MAX_REF_CHARS,
    MAX_SUBTASK_METADATA_BYTES,
    MAX_SUBTASKS,
    MAX_TASK_METADATA_BYTES,
    MAX_TITLE_CHARS,
    MAX_TOOL_CHARS,
    MAX_TOOLS,
    NewSubtask,
    NewTask,
    TaskStatus,
    wrong_dependencies,
)


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


Title = Annotated[str, line(MAX_TITLE_CHARS)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)]
Priority = Annotated[Whole, Field(ge=0, le=MAX_PRIORITY)]
Ref = Annotated[str, line(MAX_REF_CHARS, strips=False)]
Tool = Annotated[str, line(MAX_TOOL_CHARS)]
TaskMetadata = Annotated[FreeForm, json_of_at_most(MAX_TASK_METADATA_BYTES)]
SubtaskMetadata = Annotated[FreeForm, json_of_at_most(MAX_SUBTASK_METADATA_BYTES)]


class SubtaskBody(Body):
    """A subtask of a new task."""

    title: Title
    ref: Ref | None = None
    """A name that the client chooses, by which `dependencies` of other subtasks in this body refer to it."""
    description: Description = ""
    dependencies: Annotated[list[Ref], Field(max_length=MAX_SUBTASKS), AfterValidator(_distinct)] = Field(
        default_factory=list
    )
    """Refs of the subtasks that must be completed before it starts; they must not form a cycle."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS), AfterValidator(_distinct)] = Field(default_factory=list)
    """Names of the tools that a worker must have to do it."""
    metadata: SubtaskMetadata = Field(default_factory=dict)


def _in_the_graph(given: object) -> NewSubtask:
    """Return as much of a subtask as its place among the others needs, whatever else is wrong with it."""
    members = given if isinstance(given, dict) else {}
    ref, needs = members.get("ref"), members.get("dependencies")
    if not isinstance(needs, list) or len(needs) > MAX_SUBTASKS or not all(isinstance(each, str) for each in needs):
        needs = []
    ref = ref if isinstance(ref, str) else None
    return NewSubtask(title="", ref=ref, dependencies=tuple(_distinct(needs)), metadata={})


class CreateTaskBody(Body):
    """A new task; its owner is the caller."""

    title: Title
    description: Description = ""
    priority: Priority = DEFAULT_PRIORITY
    """From 0 to 9; higher goes first."""
    metadata: TaskMetadata = Field(default_factory=dict)
    subtasks: Annotated[list[SubtaskBody], Field(max_length=MAX_SUBTASKS)] = Field(default_factory=list)

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return what is wrong with the dependencies of subtasks among each other."""
        subtasks = given.get("subtasks")
        if not isinstance(subtasks, list) or len(subtasks) > MAX_SUBTASKS:
            return ()
        return wrong_dependencies([_in_the_graph(each) for each in subtasks])

    def new(self) -> NewTask:
        """Return the new task that the body describes."""
        return NewTask(
            title=self.title,
            description=self.description,
            priority=self.priority,
            metadata=self.metadata,
            subtasks=tuple(
                NewSubtask(
                    title=each.title,
                    ref=each.ref,
                    description=each.description,
                    dependencies=tuple(each.dependencies),
                    tools=tuple(each.tools),
                    metadata=each.metadata,
                )
                for each in self.subtasks
            ),
        )


class ChangeTaskBody(Body):
    """Changes of a task; fields left out stay as they are."""

    title: Title = left_out()
    description: Description = left_out()
    priority: Priority = left_out()
    metadata: TaskMetadata = left_out()
    status: TaskStatus = left_out()
    version: Version | None = None


class ChangeSubtaskBody(Body):
    """The next status of a subtask."""

    status: TaskStatus
    version: Version | None = None
