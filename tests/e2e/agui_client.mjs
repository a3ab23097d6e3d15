// A stock AG-UI client: posts one message, verifies the stream as it comes, prints what it made of it as one JSON line.
// usage: node agui_client.mjs URL TOKEN MESSAGE
import { HttpAgent } from "@ag-ui/client";

const [url, token, message] = process.argv.slice(2);
const agent = new HttpAgent({
  url,
  headers: { Authorization: `Bearer ${token}` },
  initialMessages: [{ id: crypto.randomUUID(), role: "user", content: message }],
});
const events = [];
const errors = [];
const warnings = [];
console.warn = (...words) => warnings.push(words.map(String).join(" "));
try {
  await agent.runAgent(
    {},
    {
      onEvent: ({ event }) => void events.push(event.type),
      onRunErrorEvent: ({ event }) => void errors.push(event.message),
    },
  );
} catch (error) {
  errors.push(String(error));
}
console.log(JSON.stringify({ events, errors, warnings, messages: agent.messages, state: agent.state }));
