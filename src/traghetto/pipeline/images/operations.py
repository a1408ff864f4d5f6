"""THE IMAGE OPERATIONS: what distinguishes the six, for one pipeline that runs them all (B.5).

Each says which model is meant, how its body is read, which images it needs and what is to be done
with them. All of it is pure; the order of the stages is `pipeline.run`'s.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from traghetto.bounds import MADE_PIXELS_MAX
from traghetto.catalog.catalog import Catalog
from traghetto.catalog.model import Model, ModelType
from traghetto.catalog.styles import NAMES, styled
from traghetto.engines.failures import FailureKind
from traghetto.engines.image_protocols import (
    BackgroundCall,
    EditCall,
    GenerateCall,
    Picture,
    Reference,
    UpscaleCall,
)
from traghetto.errors import Adjunct, ApiError, Code, ErrorCode, sentences
from traghetto.pipeline.failures import (
    BACKGROUND_CODES,
    EDIT_CODES,
    GENERATE_CODES,
    UPSCALE_CODES,
)
from traghetto.pipeline.images.prices import (
    background_prices,
    edit_prices,
    generation_prices,
    upscale_prices,
)
from traghetto.pipeline.images.work import Work
from traghetto.pipeline.stages.pictures import EDITED_PIXELS_MIN, REFERENCE_BYTES_MAX, Wanted
from traghetto.wire.chat import requested_model
from traghetto.wire.image_format import SIDE_PIXELS_MAX, ImageFormat
from traghetto.wire.images import (
    BackgroundRequest,
    EditRequest,
    GenerateRequest,
    UpscaleRequest,
    parse_background,
    parse_edit,
    parse_generate,
    parse_generations,
    parse_multi_edit,
    parse_upscale,
)
from traghetto.wire.sizes import Size, ratio_size, tier_pixels
from traghetto.wire.zod import custom_issue, refusal

DEFAULT_EDIT_MODEL: Final = "firered-image-edit"
"""What an edit is made with that names no model, if there is one of that name."""
NAMED_MODEL_CODES: Final[frozenset[Code]] = frozenset(
    {Adjunct.MODEL_NOT_A_STRING, ErrorCode.MODEL_NOT_FOUND, ErrorCode.INVALID_MODEL}
)
"""Where a request may name its model."""

Body = dict[str, Any]
Request = GenerateRequest | EditRequest | UpscaleRequest | BackgroundRequest


class ImageOperation(ABC):
    """One endpoint for images."""

    name: ClassVar[str]
    """As metrics and access records have it."""
    path: ClassVar[str]
    summary: ClassVar[str]
    """What it does, in a sentence for the document of the API."""
    takes_forms: ClassVar[bool] = True
    takes_pictures: ClassVar[bool] = True
    refuses_content: ClassVar[bool] = True
    """Whether forbidden content is an error; it is a black image otherwise."""
    model_codes: ClassVar[frozenset[Code]] = frozenset()
    """What `choose_model` raises, but for MODEL_OFFLINE."""
    codes: ClassVar[Mapping[FailureKind, Code]]
    """What a client is told of each failure of an engine."""

    @abstractmethod
    def choose_model(self, catalog: Catalog, body: Body) -> Model:
        """The model that a body means (contract A.3, step 11).

        Raises ApiError: INVALID_REQUEST, INVALID_MODEL, MODEL_NOT_FOUND, MODEL_OFFLINE.
        """

    @abstractmethod
    def parse(self, body: Body, model: Model) -> Request:
        """The body as a value that fits the model; raises INVALID_REQUEST."""

    def wanted(self, request: Any) -> Sequence[Wanted]:
        """The images to be read before the work can be said."""
        return ()

    @abstractmethod
    def work(
        self, request_id: str, request: Any, pictures: Sequence[Picture], model: Model
    ) -> Work:
        """What is to be done; raises INVALID_REQUEST for what the images do not allow."""


class Generate(ImageOperation):
    """`POST /image/generate`."""

    name = "image_generate"
    path = "/image/generate"
    summary = "Make images of a description."
    takes_forms = False
    refuses_content = False
    codes = GENERATE_CODES
    model_codes = NAMED_MODEL_CODES | {Adjunct.MODEL_REQUIRED}

    def choose_model(self, catalog: Catalog, body: Body) -> Model:
        model = catalog.resolve(requested_model(body), "image")
        if model is None:
            raise ApiError(ErrorCode.MODEL_NOT_FOUND)
        return _of_type(model, "image")

    def parse(self, body: Body, model: Model) -> GenerateRequest:
        return parse_generate(body, model.constraints, NAMES)

    def wanted(self, request: GenerateRequest) -> Sequence[Wanted]:
        return [
            Wanted(reference.image, bytes_max=REFERENCE_BYTES_MAX)
            for reference in request.references
        ]

    def work(
        self,
        request_id: str,
        request: GenerateRequest,
        pictures: Sequence[Picture],
        model: Model,
    ) -> Work:
        parameters = {
            "model": model.id,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt or None,
            "width": request.size.width,
            "height": request.size.height,
            "steps": request.steps,
            "cfg_scale": request.guidance,
            "seed": request.seed,
            "style_preset": request.style,
            "variants": request.variants,
            "format": request.format,
            "safe_mode": request.safe_mode,
        }
        parameters = {name: value for name, value in parameters.items() if value is not None}
        return Work(
            call=GenerateCall(
                request_id=request_id,
                prompt=styled(request.prompt, request.style),
                negative_prompt=request.negative_prompt,
                width=request.size.width,
                height=request.size.height,
                count=request.variants,
                seed=request.seed,
                steps=request.steps,
                guidance=request.guidance,
                quality=request.quality,
                references=tuple(
                    Reference(picture, reference.strength)
                    for picture, reference in zip(pictures, request.references, strict=True)
                ),
                format=request.format,
            ),
            lines=generation_prices(model, request.variants, request.resolution, request.quality),
            images=request.variants,
            format=request.format,
            size=request.size,
            answer=request.answer,
            safe_mode=request.safe_mode,
            enhance=request.enhance,
            blanks_violations=True,
            metadata=parameters if request.with_metadata else None,
            echo=parameters,
        )


class Generations(Generate):
    """`POST /images/generations`, as OpenAI has it: an unknown model stands for the default one."""

    name = "images_generations"
    path = "/images/generations"
    summary = "Make an image of a description, with the names of OpenAI's API."
    takes_pictures = False
    model_codes = NAMED_MODEL_CODES

    def choose_model(self, catalog: Catalog, body: Body) -> Model:
        named = body.get("model", "default")
        if not isinstance(named, str):
            raise ApiError(Adjunct.MODEL_NOT_A_STRING)
        model = catalog.resolve(named, "image") or catalog.default("image")
        if model is None:
            raise ApiError(ErrorCode.MODEL_NOT_FOUND)
        return _of_type(model, "image")

    def parse(self, body: Body, model: Model) -> GenerateRequest:
        return parse_generations(body, model.constraints)


class Edit(ImageOperation):
    """`POST /image/edit`."""

    name = "image_edit"
    path = "/image/edit"
    summary = "Change an image as a prompt says."
    codes = EDIT_CODES
    model_codes = NAMED_MODEL_CODES
    model_members: ClassVar[Sequence[str]] = ("model", "modelId")

    def choose_model(self, catalog: Catalog, body: Body) -> Model:
        named = next(
            (body[member] for member in self.model_members if body.get(member) is not None), None
        )
        if named is None:
            model = catalog.resolve(DEFAULT_EDIT_MODEL, "inpaint")
            if model is None or not _is_editor(model):
                model = catalog.default("inpaint", _is_editor)
            if model is None:
                raise ApiError(ErrorCode.MODEL_NOT_FOUND)
            return model
        if not isinstance(named, str):
            raise ApiError(Adjunct.MODEL_NOT_A_STRING)
        model = catalog.resolve(named, "inpaint")
        # Models of edits are an enumeration in the contract: an unknown one is invalid there.
        if model is None or not _is_editor(model):
            raise ApiError(ErrorCode.INVALID_MODEL)
        return model

    def parse(self, body: Body, model: Model) -> EditRequest:
        return parse_edit(body, model.constraints)

    def wanted(self, request: EditRequest) -> Sequence[Wanted]:
        return [Wanted(image, EDITED_PIXELS_MIN) for image in request.images]

    def work(
        self, request_id: str, request: EditRequest, pictures: Sequence[Picture], model: Model
    ) -> Work:
        size = _edited_size(request, pictures[0])
        _check_sides(size or Size(pictures[0].width, pictures[0].height), request.format)
        return Work(
            call=EditCall(
                request_id=request_id,
                prompt=request.prompt,
                pictures=tuple(pictures),
                width=None if size is None else size.width,
                height=None if size is None else size.height,
                quality=request.quality,
                format=request.format,
            ),
            lines=edit_prices(model, len(pictures), request.priced_resolution, request.quality),
            format=request.format,
            size=size,
            safe_mode=request.safe_mode,
            enhance=request.enhance,
            charges_refused=True,
        )


class MultiEdit(Edit):
    """`POST /image/multi-edit`."""

    name = "image_multi_edit"
    path = "/image/multi-edit"
    summary = "Change an image with the help of others, or combine several."
    model_members = ("modelId",)

    def parse(self, body: Body, model: Model) -> EditRequest:
        return parse_multi_edit(body, model.constraints)


class Upscale(ImageOperation):
    """`POST /image/upscale`: with the gateway's upscaler, the request names none."""

    name = "image_upscale"
    path = "/image/upscale"
    summary = "Enlarge an image, two to four times."
    codes = UPSCALE_CODES

    def choose_model(self, catalog: Catalog, body: Body) -> Model:
        return _served(catalog.default("upscale"))

    def parse(self, body: Body, model: Model) -> UpscaleRequest:
        return parse_upscale(body)

    def wanted(self, request: UpscaleRequest) -> Sequence[Wanted]:
        return [Wanted(request.image, EDITED_PIXELS_MIN)]

    def work(
        self, request_id: str, request: UpscaleRequest, pictures: Sequence[Picture], model: Model
    ) -> Work:
        (picture,) = pictures
        size = _upscaled_size(picture, request.scale)
        if size.width <= picture.width or size.height <= picture.height:
            text = sentences.NO_ROOM_TO_UPSCALE.format(pixels_max=MADE_PIXELS_MAX)
            raise refusal([custom_issue(("image",), text)])
        return Work(
            call=UpscaleCall(
                request_id=request_id,
                picture=picture,
                width=size.width,
                height=size.height,
                creativity=request.creativity,
            ),
            lines=upscale_prices(model, size.width / picture.width),
            format="png",
            size=size,
        )


class BackgroundRemove(ImageOperation):
    """`POST /image/background-remove`: with the gateway's remover, the request names none."""

    name = "image_background_remove"
    path = "/image/background-remove"
    summary = "Cut the foreground of an image out."
    codes = BACKGROUND_CODES

    def choose_model(self, catalog: Catalog, body: Body) -> Model:
        return _served(catalog.default("inpaint", lambda model: model.removes_background))

    def parse(self, body: Body, model: Model) -> BackgroundRequest:
        return parse_background(body)

    def wanted(self, request: BackgroundRequest) -> Sequence[Wanted]:
        return [Wanted(request.image)]

    def work(
        self,
        request_id: str,
        request: BackgroundRequest,
        pictures: Sequence[Picture],
        model: Model,
    ) -> Work:
        (picture,) = pictures
        return Work(
            call=BackgroundCall(request_id=request_id, picture=picture),
            lines=background_prices(model),
            format="png",
            size=Size(picture.width, picture.height),
            has_alpha=True,
        )


IMAGE_OPERATIONS: Final[tuple[ImageOperation, ...]] = (
    Generate(),
    Generations(),
    Edit(),
    MultiEdit(),
    Upscale(),
    BackgroundRemove(),
)


def _of_type(model: Model, kind: ModelType) -> Model:
    if model.type != kind:
        raise ApiError(ErrorCode.INVALID_MODEL)
    return model


def _is_editor(model: Model) -> bool:
    return model.type == "inpaint" and not model.removes_background


def _served(model: Model | None) -> Model:
    """The model of an endpoint that has no choice of any."""
    if model is None:
        reason = "no model of this kind is configured"
        raise ApiError(ErrorCode.MODEL_OFFLINE, is_final=True, reason=reason)
    return model


def _edited_size(request: EditRequest, picture: Picture) -> Size | None:
    """The size of an edit; None leaves it to the engine, which keeps the picture's."""
    if request.aspect_ratio is None and request.resolution is None:
        return None
    if request.aspect_ratio is None:
        shape = Size(picture.width, picture.height)
    else:
        shape = ratio_size(request.aspect_ratio)
    if request.resolution is None:
        return shape.scaled_to(picture.width * picture.height)
    return shape.scaled_to(tier_pixels(request.resolution))


def _check_sides(size: Size, image_format: ImageFormat) -> None:
    """Raise INVALID_REQUEST if the format that was asked for has no numbers for such a size."""
    side_max = SIDE_PIXELS_MAX[image_format]
    if max(size.width, size.height) > side_max:
        text = sentences.SIDE_TOO_LONG.format(
            width=size.width, height=size.height, format=image_format, side_max=side_max
        )
        raise refusal([custom_issue(("output_format",), text)])


def _upscaled_size(picture: Picture, scale: float) -> Size:
    """The enlarged size, reduced to the most pixels that an answer may have."""
    pixels = picture.width * picture.height
    scale = min(scale, math.sqrt(MADE_PIXELS_MAX / pixels))
    return Size(int(picture.width * scale), int(picture.height * scale))
