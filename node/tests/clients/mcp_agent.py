"""An agent by the MCP SDK from PyPI (`mcp`): defines, runs, decides and draws a workflow.

Started with a mode of the SDK (`auto` or `legacy`), a name for what it makes, and either the URL of
`/mcp` or the command line that serves MCP on stdio. Prints one line of JSON: what it was told.
"""

import asyncio
import json
import sys

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

DEFINITION = {
    "steps": [
        {"id": "tell", "action": "workflow.notify", "params": {"message": "begun"}},
        {
            "id": "ask",
            "type": "reasoning",
            "depends_on": ["tell"],
            "config": {
                "prompt_context": "Go on?",
                "options": [{"id": "yes"}, {"id": "no"}],
                "target_agent": "boss",
            },
        },
    ]
}


async def work(mode: str, name: str, server: list[str]) -> dict:
    target = server[0]
    if not target.startswith("http"):
        target = StdioServerParameters(command=server[0], args=server[1:])
    noticed = asyncio.Event()
    notices = []

    async def on_message(params) -> None:
        notices.append(params.data)
        noticed.set()

    async with Client(target, mode=mode, logging_callback=on_message) as client:

        async def call(tool: str, **arguments):
            return await client.call_tool(tool, arguments)

        async def get(tool: str, **arguments):
            result = await call(tool, **arguments)
            assert not result.is_error, result.content[0].text
            return result.structured_content

        tools = [tool.name for tool in (await client.list_tools()).tools]
        defined = await get("opcode.define", name=name, definition=DEFINITION, agent_id="bot")
        run = await get("opcode.run", template_name=name, agent_id="bot", params={"n": 2**60})
        decision = {
            "workflow_id": run["workflow_id"],
            "signal_type": "decision",
            "step_id": "ask",
            "payload": {"choice": "yes"},
        }
        refused = await call("opcode.signal", **decision, agent_id="intern")
        decided = await get("opcode.signal", **decision, agent_id="boss")
        status = await get("opcode.status", workflow_id=run["workflow_id"])
        diagram = await get("opcode.diagram", workflow_id=run["workflow_id"], format="ascii")
        if mode == "legacy":
            await asyncio.wait_for(noticed.wait(), 30)
        return {
            "tools": tools,
            "version": defined["version"],
            "run": run["status"],
            "params": run["params"],
            "refused": json.loads(refused.content[0].text)["code"] if refused.is_error else None,
            "decided": decided["status"],
            "choice": status["output"]["ask"]["choice"],
            "diagram": diagram["diagram"],
            "notices": [notice["message"] for notice in notices],
        }


def main() -> None:
    mode, name, *server = sys.argv[1:]
    print(json.dumps(asyncio.run(work(mode, name, server))), flush=True)


if __name__ == "__main__":
    main()
