"""What a server answers to a call, as plain data."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import mcp_types

from converge.core.plain import check
from converge.extensions.mcp.errors import MCPToolError

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["MAX_ERROR_LETTERS", "value_of"]

MAX_ERROR_LETTERS = 4_000


def value_of(result: mcp_types.CallToolResult) -> Plain:
    """The value of a call: the structured one if there is one, the text if that is all, else a list of blocks.

    A block is a str, or a dict with `type` and, for an image, audio or a resource, `mime_type` and `data` as bytes.
    Structured and other than text comes as `{"structured": …, "content": […]}`. Raises `MCPToolError` when the server
    says that the call failed, and for what is no plain data.
    """
    if result.is_error:
        text = "\n".join(block.text for block in result.content if isinstance(block, mcp_types.TextContent)).strip()
        raise MCPToolError(text[:MAX_ERROR_LETTERS] or "the server says that the call failed, and not why")
    only_text = all(isinstance(block, mcp_types.TextContent) for block in result.content)
    if result.structured_content is not None and only_text:
        return _checked(result.structured_content)  # the text says the same, for those who know no structure
    blocks: list[Plain] = [_block(block) for block in result.content]
    if result.structured_content is not None:
        return _checked({"structured": result.structured_content, "content": blocks})
    return _checked(blocks[0] if only_text and len(blocks) == 1 else blocks)


def _block(block: mcp_types.ContentBlock) -> Plain:
    match block:
        case mcp_types.TextContent():
            return block.text
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return {"type": block.type, "mime_type": block.mime_type, "data": _decoded(block.data)}
        case mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents() as held):
            return {"type": "resource", "uri": held.uri, "mime_type": held.mime_type, "text": held.text}
        case mcp_types.EmbeddedResource(resource=mcp_types.BlobResourceContents() as held):
            return {"type": "resource", "uri": held.uri, "mime_type": held.mime_type, "data": _decoded(held.blob)}
        case mcp_types.ResourceLink():
            return {"type": "resource_link", "uri": block.uri, "name": block.name, "mime_type": block.mime_type}
    raise MCPToolError(f"the server answered with a block of a kind that is not known here: {type(block).__name__}")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise MCPToolError(f"the server answered with data that is no base64: {error}") from None


def _checked(value: Plain) -> Plain:
    try:
        check(value)
    except TypeError as error:
        raise MCPToolError(f"the server answered with what is no plain data: {error}") from None
    return value
