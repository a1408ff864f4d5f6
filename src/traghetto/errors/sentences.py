"""THE SENTENCES of validation: what a 400 with `details` and `issues` says.

The vocabulary is Zod 3's, except that a missing member says `Field is required` (contract A.0).
Invariants: no such sentence stands anywhere else, and none quotes what the caller wrote beyond
the rejected member of an enumeration and the names of unknown keys, each cut to
`ECHO_CHARACTERS_MAX`.
"""

from __future__ import annotations

from typing import Final

ECHO_CHARACTERS_MAX: Final = 200

REQUIRED: Final = "Field is required"
WRONG_TYPE: Final = "Expected {expected}, received {received}"
NOT_IN_ENUM: Final = "Invalid enum value. Expected {expected}, received '{received}'"
NOT_THE_LITERAL: Final = "Invalid literal value, expected {expected}"
UNRECOGNIZED_KEYS: Final = "Unrecognized key(s) in object: {keys}"
INVALID_UNION: Final = "Invalid input"
INVALID_PATTERN: Final = "Invalid"
INVALID_URL: Final = "Invalid url"
INVALID_DATE_TIME: Final = "Invalid datetime"
STRING_TOO_SHORT: Final = "String must contain at least {bound} character(s)"
STRING_TOO_LONG: Final = "String must contain at most {bound} character(s)"
NUMBER_TOO_SMALL: Final = "Number must be greater than or equal to {bound}"
NUMBER_TOO_BIG: Final = "Number must be less than or equal to {bound}"
NUMBER_NOT_ABOVE: Final = "Number must be greater than {bound}"
NUMBER_NOT_BELOW: Final = "Number must be less than {bound}"
NUMBER_NOT_A_MULTIPLE: Final = "Number must be a multiple of {step}"
INVALID_DATE: Final = "Invalid date"
DATE_TOO_LATE: Final = "Date must be smaller than or equal to {bound}"
ARRAY_TOO_SHORT: Final = "Array must contain at least {bound} element(s)"
ARRAY_TOO_LONG: Final = "Array must contain at most {bound} element(s)"

PARTS_PER_MESSAGE: Final = "At most {bound} {part} parts are allowed per message"
PARTS_PER_REQUEST: Final = "At most {bound} {part} parts are allowed per request"

EXPIRES_IN_THE_PAST: Final = "expiresAt must be in the future"
CURSOR_NOT_ALONE: Final = "cursor cannot be combined with other parameters"
END_NOT_AFTER_START: Final = "endTimestamp must be after startTimestamp"
DATES_NOT_TOGETHER: Final = "startDate and endDate must be given together"
END_BEFORE_START: Final = "endDate must not be before startDate"
RANGE_TOO_LONG: Final = "The range must not exceed {bound} days"

PARAMETER_NOT_SUPPORTED: Final = "{parameter} is not supported by this model"
CONTENT_NOT_SUPPORTED: Final = (
    "{kind} content is not supported by this model. Please use a model that supports it."
)
EFFORT_NOT_SUPPORTED: Final = PARAMETER_NOT_SUPPORTED.format(parameter="reasoning_effort")

TOOL_CHOICE_WITHOUT_TOOLS: Final = "tool_choice is only allowed when tools are specified"
TOOL_CHOICE_UNKNOWN: Final = "tool_choice names a function that is not in tools"

MODEL_LACKS: Final = "This model does not support {parameter}"
NOT_TOGETHER: Final = "{parameter} cannot be combined with {other}"
EXACTLY_ONE_OF: Final = "Exactly one of {first} and {second} is required"
NO_ROOM_TO_UPSCALE: Final = (
    "The image cannot be upscaled: the result may have at most {pixels_max} pixels"
)
SIDE_TOO_LONG: Final = (
    "The image would be {width} x {height} pixels, and a side of {format} has at most {side_max}"
)
HEIF_NOT_READ: Final = "HEIF images are not read by this server. Send PNG, JPEG, WebP, AVIF or GIF."
IMAGES_AS_FILES: Final = "A form carries images as files"
