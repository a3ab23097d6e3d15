// Lets the stock @ag-ui/client answer what a tool asks, at the server at argv[2]; prints what it holds after each run.
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const answers = { accept: { action: "accept", content: { ok: true } }, decline: { action: "decline" } };

/** Answers each form of a question, by the names that its schema has. */
function inForms({ responseSchema }, answer) {
  const payload = Object.fromEntries(Object.keys(responseSchema.properties).map((name) => [name, answer]));
  return { status: "resolved", payload };
}

const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));
const found = {};
for (const [name, answer] of Object.entries(answers)) {
  const agent = new HttpAgent({ url: process.argv[2], threadId: name });
  agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "go" });
  await agent.runAgent();
  const asked = agent.pendingInterrupts;
  const forms = asked.map(({ responseSchema }) => responseSchema);
  const resume = buildResumeArray(asked, Object.fromEntries(asked.map((each) => [each.id, inForms(each, answer)])));
  await agent.runAgent({ resume });
  const questions = asked.map(({ reason, message }) => ({ reason, message }));
  found[name] = { asked: questions, forms, left: agent.pendingInterrupts.length, messages: agent.messages };
}
process.stdout.write(JSON.stringify({ found, warnings }));
