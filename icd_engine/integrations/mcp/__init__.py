"""The engine as tools of the Model Context Protocol, for agents: `icd mcp`."""
