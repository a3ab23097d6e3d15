// Our own agent in Node.js: says one thing, and prints what AG-UI's client made of the answer as one JSON line.
// usage: node karma_agent.mjs PACKAGE URL TOKEN MESSAGE; PACKAGE: the compiled module
import { pathToFileURL } from "node:url";

const [packed, streamUrl, token, message] = process.argv.slice(2);
const { KarmaAgent } = await import(pathToFileURL(packed));
const warnings = [];
console.warn = (...words) => warnings.push(words.map(String).join(" "));
const agent = new KarmaAgent({
  streamUrl,
  token: () => token,
  initialMessages: [{ id: crypto.randomUUID(), role: "user", content: message }],
});
const events = [];
const errors = [];
try {
  await agent.runAgent({}, { onEvent: ({ event }) => void events.push(event.type) });
} catch (error) {
  errors.push(String(error));
}
console.log(JSON.stringify({ events, errors, warnings, messages: agent.messages, state: agent.state }));
