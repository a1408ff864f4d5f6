"""Which codes of the contract no endpoint of this server gives yet."""

from __future__ import annotations

from typing import Final

from traghetto.errors import ErrorCode

NOT_SERVED_YET: Final = frozenset(
    {
        ErrorCode.X402_INVALID_SIGN_IN,
        ErrorCode.X402_WALLET_MISMATCH,
        ErrorCode.REQUEST_ID_NOT_FOUND,
        ErrorCode.INVALID_AUDIO_FORMAT,
        ErrorCode.INVALID_VIDEO_FORMAT,
        ErrorCode.CHARACTER_NOT_FOUND,
        ErrorCode.MEDIA_NOT_FOUND,
        ErrorCode.VIDEO_DURATION_TOO_LONG,
        ErrorCode.VIDEO_DURATION_TOO_SHORT,
        ErrorCode.ASR_UPSTREAM_VALIDATION_FAILED,
        ErrorCode.TEE_ATTESTATION_FAILED,
        ErrorCode.TEE_SIGNATURE_FAILED,
        ErrorCode.ASR_UPSTREAM_FAILED,
    }
)
"""A test compares this with what the package raises; an endpoint that comes takes its codes out."""
