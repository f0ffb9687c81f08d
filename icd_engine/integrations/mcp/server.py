"""The tools as an MCP server: their arguments, their answers, and every refusal as one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from anyio.from_thread import run as in_loop
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.utilities.types import Image as McpImage
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field, ValidationError

from icd_engine.errors import IcdError
from icd_engine.integrations.mcp.arguments import (
    Output,
    Picture,
    Prompt,
    Settings,
    SourcePrompt,
    as_settings,
    as_size,
)
from icd_engine.integrations.mcp.work import Desk, Edited
from icd_engine.version import __version__

ABOUT = (
    "Edits real pictures by text and keeps the rest of them where it was. Describe the picture as it is "
    "(source_prompt) and as it should be (prompt), word for word the same but for the change. For several "
    "edits of one picture, start a session: each edit then takes half of the time."
)
SessionName = Annotated[str, Field(description="What start_session returned.")]
Seed = Annotated[int | None, Field(description="Of the noise that is added before encoding.", ge=0)]
Size = Annotated[
    str | None,
    Field(
        description="WIDTHxHEIGHT to work at and return. Default: the picture's own.",
        pattern=r"^\d{1,5}x\d{1,5}$",
    ),
]
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
KEEPS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)


class Server(MCPServer):
    """The SDK's server, whose refusals are one line and which knows no argument by a wrong name."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Runs a tool. What the engine refuses is the tool's answer, marked as an error."""
        tools = {tool.name: tool for tool in await self.list_tools()}
        if name in tools:
            known = tools[name].input_schema.get("properties", {})
            unknown = next((key for key in arguments if key not in known), None)
            if unknown is not None:
                text = f"unknown argument {unknown[:40]!r} (known: {', '.join(known)})"
                return _answer(text, error=True)
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                return _answer(_first_mistake(error.__cause__), error=True)
            if isinstance(error.__cause__, IcdError):
                return _answer(str(error.__cause__), error=True)
            raise


def server(desk: Desk) -> Server:
    """The server of one desk."""
    made = Server("icd-engine", instructions=ABOUT, version=__version__, log_level="WARNING")
    _add_edits(made, desk)
    _add_sessions(made, desk)

    @made.tool(annotations=READS)
    def list_models() -> CallToolResult:
        """Tells which model edits, its size and default settings, and which others there are."""
        return _told(desk.models())

    return made


def _add_edits(made: Server, desk: Desk) -> None:
    @made.tool(annotations=KEEPS)
    def edit_picture(
        image: Picture,
        prompt: Prompt,
        ctx: Context,
        source_prompt: SourcePrompt = None,
        settings: Settings | None = None,
        mask: Picture | None = None,
        size: Size = None,
        output: Output = None,
    ) -> CallToolResult:
        """Edits one picture: prompt says what it should show, source_prompt what it shows."""
        desk.pictures.check_output(output)
        edited = desk.edit(
            _given(image),
            source_prompt,
            prompt,
            as_settings(settings),
            None if mask is None else _given(mask),
            as_size(size),
            _progress(ctx),
        )
        return _shown(desk, edited, output)


def _add_sessions(made: Server, desk: Desk) -> None:
    @made.tool(annotations=KEEPS)
    def start_session(
        image: Picture,
        ctx: Context,
        source_prompt: SourcePrompt = None,
        seed: Seed = None,
        size: Size = None,
    ) -> CallToolResult:
        """Encodes a picture once, so that edit_session can edit it again and again. Returns the name
        of the session; a server keeps a few, and those not used for longest go."""
        return _told(desk.start(_given(image), source_prompt, seed, as_size(size), _progress(ctx)))

    @made.tool(annotations=KEEPS)
    def edit_session(
        session: SessionName,
        prompt: Prompt,
        ctx: Context,
        settings: Settings | None = None,
        mask: Picture | None = None,
        output: Output = None,
    ) -> CallToolResult:
        """Edits the picture of a session, always as it was when the session began."""
        desk.pictures.check_output(output)
        given = None if mask is None else _given(mask)
        edited = desk.edit_session(session, prompt, as_settings(settings), given, _progress(ctx))
        return _shown(desk, edited, output)

    @made.tool(annotations=ENDS)
    def end_session(session: SessionName) -> CallToolResult:
        """Forgets the picture of a session."""
        desk.end(session)
        return _told({"ended": session})


def _given(picture: Any) -> Any:
    return picture if isinstance(picture, str) else picture.model_dump()


def _progress(context: Context) -> Callable[[int], None]:
    """Tells the client of hops, from the thread that a tool runs in; clients that wait for long want
    to hear."""
    done = 0

    def tell(hops: int) -> None:
        nonlocal done
        done += hops
        in_loop(context.report_progress, done)

    return tell


def _shown(desk: Desk, edited: Edited, output: str | None) -> CallToolResult:
    if output is not None:
        path = desk.pictures.write(edited.picture, output, edited.source)
        return _told({"file": str(path), **edited.about})
    data = desk.pictures.encoded(edited.picture, edited.source)
    told = _told(edited.about)
    told.content.insert(0, McpImage(data=data, format="png").to_image_content())
    return told


def _told(about: dict[str, Any]) -> CallToolResult:
    answer = _answer(json.dumps(about, ensure_ascii=False))
    answer.structured_content = about
    return answer


def _answer(text: str, error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=error)


def _first_mistake(error: ValidationError) -> str:
    """The first argument that is wrong, and why, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"][:2])
    return f"{where}: {' '.join(str(first['msg']).split())}"
