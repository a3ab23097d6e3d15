// Joins runs by our agent, whose connection is cut behind the first events, and prints what it holds at each end.
// usage: node joining.mjs PACKAGE < [{head, tail, messages}]; PACKAGE: the compiled module. Both are frames.
import http from "node:http";
import { pathToFileURL } from "node:url";

const { KarmaAgent } = await import(pathToFileURL(process.argv[2]));
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
let now;
const server = http.createServer((request, response) => {
  const query = new URL(request.url, "http://localhost").searchParams;
  now.asked.push(request.url);
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.end(query.has("after") ? now.tail : query.get("join") === "true" ? now.head : "");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const told = [];
for (const { head, tail, messages } of JSON.parse(Buffer.concat(chunks).toString())) {
  now = { head, tail, asked: [] };
  const warnings = [];
  console.warn = (...words) => warnings.push(words.map(String).join(" "));
  const agent = new KarmaAgent({ streamUrl: `http://127.0.0.1:${server.address().port}`, initialMessages: messages });
  let error = "";
  try {
    await agent.connectAgent({ runId: "r1" });
  } catch (failure) {
    error = String(failure);
  }
  told.push({ error, warnings, asked: now.asked, messages: agent.messages, state: agent.state });
}
server.close();
server.closeAllConnections();
process.stdout.write(JSON.stringify(told));
