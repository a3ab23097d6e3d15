// Runs or joins by AG-UI's client over our `fetch`, whose connections are cut as each history says, and prints what it holds at the end.
// usage: node cut_answers.mjs FOLDER < {first, again, over, joined, behind, joins, sent, places, histories}; FOLDER: the compiled package.
import { pathToFileURL } from "node:url";

const { KarmaAgent } = await import(new URL("index.js", pathToFileURL(`${process.argv[2]}/`)));
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { histories, joins, sent, places, ...answers } = JSON.parse(Buffer.concat(chunks).toString());
Math.random = () => 0; // no pause between connections

const whole = answers.behind.length - 1;
const warnings = [];
console.warn = (...words) => warnings.push(words.map(String).join(" "));
const told = [];
for (const history of histories) {
  const [left, asked] = [[...history], []];
  let posts = 0;
  globalThis.fetch = async (url, { method = "GET" }) => {
    const [now, cut] = left.shift() ?? [whole, null];
    const { search, searchParams } = new URL(url);
    asked.push(`${method} ${search}`);
    const after = searchParams.get("after");
    const answer = method !== "POST" ? (after === null ? answers.joined[now] : answers.behind[Number(after)])
      : ++posts === 1 ? answers.first : now === whole ? answers.over : answers.again;
    if (cut === -1) throw new TypeError("fetch failed");
    const bytes = new TextEncoder().encode(answer);
    const end = cut === null ? bytes.length : places[answer][cut % places[answer].length];
    const body = new ReadableStream({
      start: (controller) => (end > 0 ? controller.enqueue(bytes.slice(0, end)) : undefined),
      pull: (controller) => controller.error(new TypeError("terminated")),
    }, { highWaterMark: 0 });
    return new Response(body, { status: 200, headers: { "content-type": "text/event-stream" } });
  };
  const agent = new KarmaAgent({ streamUrl: "http://x", token: "t", threadId: "t1", initialMessages: joins ? [] : sent });
  let error = "";
  try {
    await (joins ? agent.connectAgent({ runId: "r1" }) : agent.runAgent({ runId: "r1" }));
  } catch (failure) {
    error = String(failure);
  }
  told.push({ error, asked, messages: agent.messages, state: agent.state });
}
process.stdout.write(JSON.stringify({ told, warnings }));
