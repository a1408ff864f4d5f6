"""What clients of neighbouring services send, put into the form of the contract (B.1.1).

Runs before validation, so nothing here trusts a type: what does not look as expected is left as
it stands, for the schema to name. A body to which nothing applies comes back as it is, and none
is changed in place. Places named in validation errors are places in the rewritten body.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

Json = dict[str, Any]

_RENAMED: Final = {
    "input": "messages",
    "max_output_tokens": "max_tokens",
    "promptCacheKey": "prompt_cache_key",
}
_OTHER_FORMS: Final = frozenset({*_RENAMED, "web_search", "tools", "tool_choice"})
_IGNORED_TOOL_TYPES: Final = frozenset({"namespace"})
_PART_TYPES: Final = frozenset({"text", "image_url", "input_audio", "video_url", "file"})
_TEXT_PARTS: Final = frozenset({"input_text", "output_text"})
_TOOL_CHOICES: Final = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


def rewrite(body: Json) -> Json:
    """`body` with every tolerated foreign form replaced by the contract's."""
    if not _OTHER_FORMS.isdisjoint(body):
        body = _members(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body and _is_no_limit(body[name]):
            body = {key: value for key, value in body.items() if key != name}
    messages = body.get("messages")
    if type(messages) is list:
        rewritten = _messages(messages)
        if rewritten is not messages:
            body = {**body, "messages": rewritten}
    return body


def _members(body: Json) -> Json:
    body = dict(body)
    for foreign, name in _RENAMED.items():
        if foreign in body and name not in body:
            body[name] = body.pop(foreign)
    if isinstance(body.get("messages"), str):
        body["messages"] = [{"role": "user", "content": body["messages"]}]
    _web_search(body)
    tools = body.get("tools")
    if type(tools) is list:
        body["tools"] = [_tool(tool) for tool in tools if not _is_ignored(tool)]
    choice = body.get("tool_choice")
    if type(choice) is dict:
        body["tool_choice"] = _tool_choice(choice)
    return body


def _is_no_limit(limit: Any) -> bool:
    """Whether a limit of tokens is 0 or less, which counts as none."""
    return (type(limit) is int or type(limit) is float) and limit <= 0


def _web_search(body: Json) -> None:
    """`web_search: bool` sets `enable_web_search`, unless the caller did so itself."""
    parameters = body.get("venice_parameters", {})
    if type(body.get("web_search")) is bool and type(parameters) is dict:
        setting = "on" if body.pop("web_search") else "off"
        body["venice_parameters"] = {"enable_web_search": setting, **parameters}


def _is_ignored(tool: Any) -> bool:
    return (
        type(tool) is dict and "function" not in tool and _is_in(tool, "type", _IGNORED_TOOL_TYPES)
    )


def _tool(tool: Any) -> Any:
    """A flat function tool, `{type, name, parameters}` or `{name, input_schema}`, nested."""
    if type(tool) is not dict or "function" in tool or "name" not in tool:
        return tool
    if not (tool.get("type") == "function" or "input_schema" in tool or "type" not in tool):
        return tool
    function = {key: tool[key] for key in ("name", "description", "strict") if key in tool}
    parameters = tool.get("parameters", tool.get("input_schema"))
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": _without_nulls(function)}


def _tool_choice(choice: Json) -> Any:
    kind = choice.get("type")
    if "function" in choice or type(kind) is not str:
        return choice
    if kind in _TOOL_CHOICES:
        return _TOOL_CHOICES[kind]
    if kind in {"function", "tool"} and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _messages(messages: list[Any]) -> list[Any]:
    """The messages; the same list when none needed a change."""
    rewritten: list[Any] = []
    changed = False
    for message in messages:
        if type(message) is not dict:
            rewritten.append(message)
            continue
        content = message.get("content")
        if type(content) is list and not all(map(_is_plain_part, content)):
            changed = True
            replaced = _blocks(message, content)
        else:
            replaced = [message]
        for each in replaced:
            if each.get("role") == "assistant" and not (
                each.get("content") or each.get("tool_calls")
            ):
                changed = True  # a turn that says nothing: the published service drops it
            else:
                rewritten.append(each)
    return rewritten if changed else messages


def _is_plain_part(part: Any) -> bool:
    return type(part) is dict and _is_in(part, "type", _PART_TYPES)


def _blocks(message: Json, content: list[Any]) -> list[Json]:
    """The messages that one message with foreign content blocks stands for.

    Results of tools come first, each as a `tool` message, because they answer the turn before;
    what is left of the message follows. Calls of tools become `tool_calls`.
    """
    results: list[Json] = []
    calls: list[Json] = []
    parts: list[Any] = []
    for part in content:
        kind = part.get("type") if type(part) is dict else None
        if kind == "tool_result" and message.get("role") == "user":
            results.append(_tool_result(part))
        elif kind == "tool_use" and message.get("role") == "assistant":
            calls.append(_tool_call(part))
        else:
            parts.append(_part(part))
    if not (results or calls):
        return [{**message, "content": parts}]
    left = {**message, "content": parts or None}
    if calls:
        earlier = message.get("tool_calls")
        left["tool_calls"] = [*earlier, *calls] if type(earlier) is list else calls
    return [*results, left] if parts or calls else results


def _part(part: Any) -> Any:
    """A content part; images of other clients become `image_url`, their texts `text`."""
    if type(part) is not dict:
        return part
    if part.get("type") == "image":
        url = _image_url(part)
        if url is not None:
            return {"type": "image_url", "image_url": {"url": url}}
    elif _is_in(part, "type", _TEXT_PARTS):
        return {**part, "type": "text"}
    return part


def _image_url(part: Json) -> Any:
    """The URL of `{image}`, `{image_url}`, `{source: {url}}` or `{source: {media_type, data}}`."""
    for name in ("image", "image_url", "source"):
        found = part.get(name)
        if type(found) is str:
            return found
        if type(found) is dict:
            media_type, data = found.get("media_type"), found.get("data")
            if type(media_type) is str and type(data) is str:
                return f"data:{media_type};base64,{data}"
            return found.get("url")
    return None


def _tool_result(part: Json) -> Json:
    content = part.get("content", "")
    if type(content) is list:
        content = [_part(each) for each in content]
    return {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": content}


def _tool_call(part: Json) -> Json:
    arguments = part.get("input", {})
    if type(arguments) is not str:
        arguments = msgspec.json.encode(arguments).decode()
    function = {"name": part.get("name"), "arguments": arguments}
    return {"id": part.get("id"), "type": "function", "function": function}


def _is_in(value: Json, key: str, names: frozenset[str]) -> bool:
    """Whether the member `key` is one of `names` (a list there cannot be hashed)."""
    member = value.get(key)
    return type(member) is str and member in names


def _without_nulls(value: Json) -> Json:
    return {key: member for key, member in value.items() if member is not None}
