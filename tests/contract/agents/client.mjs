// Serves the bytes on stdin as one run's answer and reads them with @ag-ui/client; prints what the client then holds.
import http from "node:http";
import { HttpAgent } from "@ag-ui/client";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { stream, input } = JSON.parse(Buffer.concat(chunks).toString());

const server = http.createServer((_, response) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.end(stream);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const agent = new HttpAgent({
  url: `http://127.0.0.1:${server.address().port}/api/agent`,
  threadId: input.threadId,
  initialMessages: input.messages,
});
const told = { error: "", warnings: [], pending: null, runError: "" };
console.warn = (...words) => told.warnings.push(words.join(" "));
try {
  await agent.runAgent({ runId: input.runId }, {
    onRunFinishedEvent: ({ pendingToolCallIds }) => { told.pending = pendingToolCallIds; },
    onRunErrorEvent: ({ event }) => { told.runError = event.code; },
  });
} catch (error) {
  told.error = String(error);
}
server.close();
server.closeAllConnections();
process.stdout.write(JSON.stringify({ ...told, messages: agent.messages, state: agent.state }));
