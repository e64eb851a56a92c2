"""The MCP endpoint and its tools."""
