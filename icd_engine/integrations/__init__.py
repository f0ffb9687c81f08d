"""The engine inside other people's programs: agents that speak MCP, diffusers, ComfyUI."""
