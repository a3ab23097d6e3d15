// A page that shows the agent's answer as it comes. `ask` answers what AG-UI's client made of it.
import { KarmaAgent } from "@karma-cloud/agent";

globalThis.ask = async (streamUrl, token, message) => {
  const agent = new KarmaAgent({
    streamUrl,
    token,
    initialMessages: [{ id: crypto.randomUUID(), role: "user", content: message }],
  });
  const events = [];
  const show = ({ messages }) => void (document.body.textContent = messages.at(-1).content);
  await agent.runAgent({}, { onEvent: ({ event }) => void events.push(event.type), onMessagesChanged: show });
  return { events, shown: document.body.textContent };
};
