"""The models of all providers as one: each target is asked of its provider, and others where it does not answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from karma.core.clock import monotonic
from karma.core.observability import count, logger
from karma.models.domain import ModelErrorCode, ModelNotConfigured, Target, Usage
from karma.models.ports import Model, ModelEvent, ModelFailed, ModelRequest, TurnEnded

_NOTHING: Final = Usage()


class RoutedModel:
    """Models of several providers, with the fall-backs that a request names.

    A fall-back is asked where the model before it could not be reached, was overloaded or broke off, and has neither
    given a piece of its answer nor reported usage. Its answer says which model it is from.
    """

    def __init__(self, providers: Mapping[str, Callable[[], Model]]) -> None:
        """Take what makes the models, by the names of their providers; each is asked once, when it is first needed."""
        self._providers = providers
        self._made: dict[str, Model] = {}

    def prepare(self, target: Target) -> None:
        """See `karma.models.ports.Model`."""
        self._of(target).prepare(target)

    def preload(self, target: Target) -> None:
        """See `karma.models.ports.Model`."""
        self._of(target).preload(target)

    async def close(self) -> None:
        """See `karma.models.ports.Model`."""
        for model in self._made.values():
            await model.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        """See `karma.models.ports.Model`; the failure that is raised is that of the model that was asked last."""
        until = monotonic() + request.patience_s
        targets = (request.target, *request.fallbacks)
        for target, following in zip(targets, (*targets[1:], None), strict=True):
            has_begun = False
            try:
                async with aclosing(self._ask(request, target, until)) as batches:
                    async for batch in batches:
                        has_begun = True
                        yield batch
                return
            except ModelFailed as exc:
                exc.by = target
                if following is None or has_begun or exc.usage != _NOTHING or not exc.code.may_pass:
                    raise
                code = exc.code.value
            logger.warning(
                "model.fallen_back",
                **request.log_keys,
                provider=target.provider,
                model=target.model,
                to_provider=following.provider,
                to_model=following.model,
                code=code,
            )
            count("ModelFallenBack", code=code)

    async def _ask(self, request: ModelRequest, target: Target, until: float) -> AsyncGenerator[Sequence[ModelEvent]]:
        request.meter.by = target
        asked = replace(
            request,
            target=target,
            fallbacks=(),
            max_tokens=min(request.max_tokens, target.max_tokens or request.max_tokens),
            patience_s=max(0.0, until - monotonic()),
        )
        try:
            async with aclosing(self._of(target).stream(asked)) as batches:
                async for batch in batches:
                    last = batch[-1]
                    if isinstance(last, TurnEnded):
                        _measure(target, last.usage)
                        request.meter.usage = last.usage
                        yield [*batch[:-1], last._replace(by=target)]
                    else:
                        yield batch
        except ModelNotConfigured as exc:
            raise ModelFailed(ModelErrorCode.MODEL_UNAVAILABLE) from exc

    def _of(self, target: Target) -> Model:
        name = target.provider
        if name not in self._made:
            if name not in self._providers:
                raise ModelNotConfigured("The language model's provider is not known")
            self._made[name] = self._providers[name]()
        return self._made[name]


def _measure(target: Target, usage: Usage) -> None:
    """Count the tokens that a model has read, and those of them that its provider had cached, or has cached then."""
    for name, tokens in (
        ("ModelInputTokens", usage.input_tokens),
        ("ModelCachedTokens", usage.cached_input_tokens),
        ("ModelCacheWrittenTokens", usage.cache_write_input_tokens),
    ):
        if tokens:
            count(name, tokens, provider=target.provider)
