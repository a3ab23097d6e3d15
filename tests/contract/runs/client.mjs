// Serves each stream on stdin as the answer to one run and reads it with a version of @ag-ui/client, named by argv[2];
// prints what that client sent, heard and then holds, run by run.
import http from "node:http";

const { HttpAgent } = await import(process.argv[2]);
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const told = [];
for (const { stream, input } of JSON.parse(Buffer.concat(chunks).toString())) {
  const heard = { error: "", warnings: [], pending: null, runError: "", sent: null, custom: [] };
  const server = http.createServer((request, response) => {
    const body = [];
    request.on("data", (chunk) => body.push(chunk));
    request.on("end", () => {
      heard.sent = JSON.parse(Buffer.concat(body).toString());
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(stream);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const agent = new HttpAgent({
    url: `http://127.0.0.1:${server.address().port}/api/agent`,
    threadId: input.threadId,
    initialMessages: input.messages,
  });
  console.warn = (...words) => heard.warnings.push(words.join(" "));
  try {
    await agent.runAgent({ runId: input.runId, tools: input.tools }, {
      onRunFinishedEvent: ({ pendingToolCallIds }) => { heard.pending = pendingToolCallIds ?? null; },
      onRunErrorEvent: ({ event }) => { heard.runError = event.code; },
      onCustomEvent: ({ event }) => { heard.custom.push(event); },
    });
  } catch (error) {
    heard.error = String(error);
  }
  server.close();
  server.closeAllConnections();
  told.push({ ...heard, messages: agent.messages, state: agent.state });
}
process.stdout.write(JSON.stringify(told));
