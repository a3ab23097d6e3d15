"""MCP servers of an account, whose tools runs may call: who they are, what they offer, and how they are asked.

- **MCP server**: an HTTP address that speaks the Model Context Protocol, kept under a name by one account, with the
  headers that it wants. Headers are secrets: stored sealed, and never shown again.
- **Listing**: the tools that a server offered when it was last asked, and what was wrong with those that are left out.
- **Exposure**: which agents may use a server, and which of its tools each of them may.
- **Remote tool**: one tool of a listing. In a run it has the name `<server>__<tool>`, so that servers do not clash.

The server's item is the truth about address, headers and exposures; its listing is a copy that is renewed when it is
old. A run takes the tools along in its setup, so another process goes on with the same ones; address and headers are
read at each call, so a deleted server is called no more.
"""
