"""Bodies of `multipart/form-data` requests, as backends that take files want them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from traghetto.engines.image_protocols import Picture
from traghetto.ids import new_request_id


def multipart_body(
    fields: Mapping[str, str], files: Iterable[tuple[str, str, Picture]]
) -> tuple[str, bytes]:
    """The content type and the body of a form.

    A file is the name of its field, its file name and the picture. Names are ours and plain ASCII;
    values are a caller's, and cannot end a part: the boundary is drawn anew for every body.
    """
    boundary = new_request_id()
    pieces: list[bytes] = []
    for name, value in fields.items():
        pieces.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            f"{value}\r\n".encode()
        )
    for name, file_name, picture in files:
        pieces.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
            f'filename="{file_name}"\r\nContent-Type: image/{picture.format}\r\n\r\n'.encode()
        )
        pieces += (picture.data, b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)
