"""Images made, judged and finished (contract A.3, step 19; B.5; A.2, code 27).

The order is: rewrite the prompt, make, decode and encode anew, judge, and then blur or blank what
the policy says. Nothing is charged or sent here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from traghetto.catalog.model import Model
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.image_protocols import (
    BackgroundCall,
    EditCall,
    EngineImage,
    GenerateCall,
    UpscaleCall,
)
from traghetto.errors import ApiError
from traghetto.media.images import Finish, ImageReader, ImageRefused
from traghetto.moderation import Policy, Verdict
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.images.prices import PricedUnits
from traghetto.pipeline.images.work import Work
from traghetto.pipeline.rewriting import Rewriter
from traghetto.pipeline.stages.moderate import judged_image, judged_prompt
from traghetto.pipeline.stages.pictures import workers_busy
from traghetto.wire.sizes import Size
from traghetto.workers.failures import WorkersBusy


class Delivery(msgspec.Struct, frozen=True):
    """One image of an answer, and what the policy says of it."""

    data: bytes
    verdict: Verdict
    is_blurred: bool = False


class Made(msgspec.Struct, frozen=True):
    """The images of a request, and what was done for them in the end."""

    work: Work
    deliveries: Sequence[Delivery]

    @property
    def bytes(self) -> int:
        """The size of all images together."""
        return sum(len(delivery.data) for delivery in self.deliveries)

    @property
    def is_refused(self) -> bool:
        """Whether it is answered with an error: something forbidden that is not made black."""
        return self.deliveries[0].verdict.blocked and not self.work.blanks_violations

    @property
    def lines(self) -> tuple[PricedUnits, ...]:
        """What is charged: what is delivered, and a forbidden edit, which its provider has made."""
        work = self.work
        if self.is_refused and not work.charges_refused:
            return ()
        lines = work.lines
        if work.blanks_violations:
            clean = sum(not delivery.verdict.blocked for delivery in self.deliveries)
            lines = tuple(
                PricedUnits(line.kind, clean, line.unit_nano_usd) for line in lines if clean
            )
        if lines and work.rewritten_prompt is not None:
            assert work.rewriting is not None, "a rewrite has a price"
            lines = (*lines, work.rewriting)
        return lines


async def make(
    maker: Maker,
    exchange: Exchange,
    work: Work,
    verdict: Verdict,
    *,
    seconds_max: float,
    error_of: Callable[[EngineFailure], ApiError],
) -> Made:
    """The images of `work`; `verdict` is what the policy says of its request.

    No work outlives its hold: what an engine may take is bounded by its model, and `seconds_max`
    bounds it together with rewriting, judging and encoding. Raises ClientGone, and ApiError:
    `error_of` a failure of the engine, MODEL_AT_CAPACITY, and MODEL_OFFLINE while a policy cannot
    be asked.
    """
    try:
        with exchange.watch_disconnect():
            async with asyncio.timeout(seconds_max):
                return await maker.make(work, verdict)
    except TimeoutError:
        late = EngineFailure(FailureKind.TIMED_OUT, "no images in the life of a hold")
        raise error_of(late) from None
    except EngineFailure as failure:
        raise error_of(failure) from failure
    except WorkersBusy as busy:
        raise workers_busy() from busy


class Maker(msgspec.Struct, frozen=True):
    """What images are made with, for one account."""

    pool: ImagePool
    model: Model
    reader: ImageReader
    policy: Policy
    rewriter: Rewriter | None
    principal: str

    async def make(self, work: Work, verdict: Verdict) -> Made:
        """The images of `work`; `verdict` is what the policy says of its request.

        Raises EngineFailure, WorkersBusy, and MODEL_OFFLINE while a policy cannot be asked.
        """
        if verdict.blocked:
            return await self._blanks(work, verdict)
        work = await self._rewritten(work, verdict)
        try:
            images = await self._images(work, blur=verdict.adult and work.safe_mode)
        except EngineFailure as failure:
            if failure.kind is FailureKind.REJECTED_CONTENT and work.blanks_violations:
                return await self._blanks(work, Verdict(blocked=True, reason=failure.reason))
            raise
        return Made(work, [await self._delivery(work, verdict, image.data) for image in images])

    async def _rewritten(self, work: Work, verdict: Verdict) -> Work:
        """The work with a better prompt, where one was wanted and came about."""
        if work.rewriting is None or self.rewriter is None:
            return work
        prompt = await self.rewriter.rewrite(work.call.request_id, work.prompt, self.principal)
        if prompt is None or not await self._is_no_worse(prompt, verdict):
            return work
        return work.with_prompt(prompt)

    async def _is_no_worse(self, prompt: str, verdict: Verdict) -> bool:
        """Whether a rewritten prompt fits the model, and says nothing its caller had not said."""
        most = self.model.constraints.get("promptCharacterLimit")
        if isinstance(most, int) and len(prompt) > most:
            return False
        if self.policy.is_empty:
            return True
        try:
            found = await judged_prompt(self.policy, prompt)
        except ApiError:
            return False  # what nobody has judged is not used, and the caller's own words were
        return not found.blocked and (verdict.adult or not found.adult)

    async def _images(self, work: Work, *, blur: bool) -> list[EngineImage]:
        """What the engine makes, decoded and encoded by us; raises EngineFailure.

        An answer is a good one of its backend when its images can be decoded, not before.
        """

        async def take(image: EngineImage) -> EngineImage:
            if image.is_own and not blur and work.metadata is None:
                return image
            return EngineImage(await self._finished(work, image.data, blur=blur), is_own=True)

        match work.call:
            case GenerateCall() as call:
                return await self.pool.generate(call, self.principal, take)
            case EditCall() as call:
                return [await self.pool.edit(call, self.principal, take)]
            case UpscaleCall() as call:
                return [await self.pool.upscale(call, self.principal, take)]
            case BackgroundCall() as call:
                return [await self.pool.remove_background(call, self.principal, take)]

    async def _delivery(self, work: Work, verdict: Verdict, data: bytes) -> Delivery:
        """An image as it is sent: judged, and blurred or blank if need be."""
        is_blurred = verdict.adult and work.safe_mode
        verdict |= await judged_image(self.policy, data, f"image/{work.format}")
        if verdict.blocked and work.blanks_violations:
            return await self._blank(work, verdict)
        if verdict.adult and work.safe_mode and not is_blurred:
            data = await self._finished(work, data, blur=True)
            is_blurred = True
        return Delivery(data, verdict, is_blurred)

    async def _blanks(self, work: Work, verdict: Verdict) -> Made:
        return Made(work, [await self._blank(work, verdict)] * work.images)

    async def _blank(self, work: Work, verdict: Verdict) -> Delivery:
        """A black image of the size that was asked for."""
        size = work.size or Size(1, 1)
        with _at_fault():
            data = await self.reader.blank(
                size.width, size.height, format=work.format, principal=self.principal
            )
        return Delivery(data, verdict)

    async def _finished(self, work: Work, data: bytes, *, blur: bool) -> bytes:
        """An image decoded, and encoded in the format and size of the answer."""
        size, metadata = work.size, work.metadata
        finish = Finish(
            blur=blur,
            width=None if size is None else size.width,
            height=None if size is None else size.height,
            require_alpha=work.has_alpha,
            metadata=None
            if metadata is None
            else {name: str(value) for name, value in metadata.items()},
        )
        with _at_fault():
            return await self.reader.finish(
                data, format=work.format, finish=finish, principal=self.principal
            )


@contextlib.contextmanager
def _at_fault() -> Iterator[None]:
    """Within it, an image that cannot be finished is the failure of whoever made it."""
    try:
        yield
    except ImageRefused as refused:
        reason = f"the backend's image: {refused.reason}"
        raise EngineFailure(FailureKind.BROKEN, reason) from refused
