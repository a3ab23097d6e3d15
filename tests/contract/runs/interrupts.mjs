// Lets the stock @ag-ui/client answer interrupts of the server at argv[2]; prints what it holds after each run.
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const url = process.argv[2];
const tools = [{ name: "askUser", description: "Ask", parameters: { type: "object", properties: {} } }];
const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));

function conversation(words) {
  const agent = new HttpAgent({ url, threadId: words });
  const told = [];
  return {
    agent,
    say: (content) => agent.addMessage({ id: crypto.randomUUID(), role: "user", content }),
    async run(parameters = {}) {
      const heard = { error: "", runError: "", pending: null };
      try {
        await agent.runAgent({ tools, ...parameters }, {
          onRunFinishedEvent: ({ pendingToolCallIds }) => { heard.pending = pendingToolCallIds ?? null; },
          onRunErrorEvent: ({ event }) => { heard.runError = event.code; },
        });
      } catch (error) {
        heard.error = error.payload?.error?.code ?? error.message;
      }
      const messages = agent.messages.map(({ role, content, toolCallId }) => ({ role, content, toolCallId }));
      told.push({ ...heard, interrupts: agent.pendingInterrupts.map(({ id }) => id), messages });
    },
    answer: (answers) => buildResumeArray(agent.pendingInterrupts, answers),
    told,
  };
}

const all = (agent, response) => Object.fromEntries(agent.pendingInterrupts.map(({ id }) => [id, response]));
const scenarios = {
  async approved(it, agent) {
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload: { approved: true } })) });
  },
  async edited(it, agent) {
    const payload = { approved: true, editedArgs: { word: "ho" } };
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload })) });
  },
  async refused(it, agent) {
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload: { approved: false } })) });
  },
  async cancelled(it, agent) {
    await it.run({ resume: it.answer(all(agent, { status: "cancelled" })) });
  },
  async unfitting(it, agent) {
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload: { approved: "yes" } })) });
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload: { approved: true } })) });
  },
  async expired(it, agent) {
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload: { approved: true } })) });
    await it.run({ resume: it.answer(all(agent, { status: "cancelled" })) });
  },
  async uncovered(it) {
    it.say("never mind");
    await it.run();
  },
  async passed(it, agent) {
    it.say("never mind");
    await it.run({ resume: it.answer(all(agent, { status: "cancelled" })) });
  },
  async mixed(it, agent) {
    agent.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId: "f1", content: "blue" });
    await it.run();
    await it.run({ resume: it.answer(all(agent, { status: "resolved", payload: { approved: true } })) });
  },
  async broken(it, agent) {
    const resume = it.answer(all(agent, { status: "resolved", payload: { approved: true } }));
    await it.run({ resume });
    await it.run({ resume });
  },
};

const found = {};
for (const [name, go] of Object.entries(scenarios)) {
  const it = conversation(name);
  it.say("go");
  await it.run();
  await go(it, it.agent);
  found[name] = it.told;
}
process.stdout.write(JSON.stringify({ found, warnings }));
