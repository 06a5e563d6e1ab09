// An agent by the MCP SDK from npm (`@modelcontextprotocol/sdk`): defines, runs, decides and draws a
// workflow.
//
// Started with a name for what it makes, and either the URL of `/mcp` or the command line that serves
// MCP on stdio. Prints one line of JSON: what it was told.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { LoggingMessageNotificationSchema } from "@modelcontextprotocol/sdk/types.js";

const definition = {
  steps: [
    { id: "tell", action: "workflow.notify", params: { message: "begun" } },
    {
      id: "ask",
      type: "reasoning",
      depends_on: ["tell"],
      config: {
        prompt_context: "Go on?",
        options: [{ id: "yes" }, { id: "no" }],
        target_agent: "boss",
      },
    },
  ],
};

const [name, ...server] = process.argv.slice(2);
const transport = server[0].startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(server[0]))
  : new StdioClientTransport({ command: server[0], args: server.slice(1) });
const client = new Client({ name: "agent", version: "1" });
const notices = [];
const noticed = new Promise((resolve) => {
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
    notices.push(params.data.message);
    resolve();
  });
});
await client.connect(transport);

const call = (tool, args) => client.callTool({ name: tool, arguments: args });
const get = async (tool, args) => {
  const result = await call(tool, args);
  if (result.isError) throw new Error(result.content[0].text);
  return result.structuredContent;
};

const tools = (await client.listTools()).tools.map((tool) => tool.name);
const defined = await get("opcode.define", { name, definition, agent_id: "bot" });
const run = await get("opcode.run", { template_name: name, agent_id: "bot", params: { n: 7 } });
const decision = {
  workflow_id: run.workflow_id,
  signal_type: "decision",
  step_id: "ask",
  payload: { choice: "yes" },
};
const refused = await call("opcode.signal", { ...decision, agent_id: "intern" });
const decided = await get("opcode.signal", { ...decision, agent_id: "boss" });
const status = await get("opcode.status", { workflow_id: run.workflow_id });
const diagram = await get("opcode.diagram", { workflow_id: run.workflow_id, format: "ascii" });
await noticed;
console.log(
  JSON.stringify({
    tools,
    version: defined.version,
    run: run.status,
    params: run.params,
    refused: refused.isError ? JSON.parse(refused.content[0].text).code : null,
    decided: decided.status,
    choice: status.output.ask.choice,
    diagram: diagram.diagram,
    notices,
  }),
);
await client.close();
