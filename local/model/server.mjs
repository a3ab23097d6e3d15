// The offline model: aimock (a server that speaks Anthropic's Messages API) with one scripted answer to whatever is asked.
//
// A message that names a tool of the client calls it, with arguments made from its schema and the message. A question about
// devices is answered by calling searchDatabase, a request to do something to one by controlDevice on what was found; a call
// whose run ended before its result is made once more. Everything ends in prose that aimock streams in paced pieces. Nothing is hard-coded: tool names and their
// parameters come from the request, device ids and results from the tool results in it.
//
// usage: node server.mjs PORT [milliseconds between pieces]
import http from "node:http";
import { LLMock } from "@copilotkit/aimock";

const [port, pace, key] = [Number(process.argv[2]), Number(process.argv[3] ?? 20), process.env.AIMOCK_API_KEYS];
if (!key) throw new Error("AIMOCK_API_KEYS names the key of the program in front");
// Characters a piece: the shortest answer is longer than five of them.
const PIECE = 12;

const DEVICE = /\b(devices?|robots?|eos|sensors?|arms?|machines?|rovers?|units?|serials?|online|offline|telemetry|temperatures?|battery|fleet)\b|设备|机器人|在线/i;
const SEARCH = /\b(find|search|list|show|which|what|where|how many|status|look up)\b|查找|搜索|哪些/i;
// What EOS devices understand, and how people ask for it; the last ones are passed on by the user's own word.
const VERBS = [
  [/\b(led|light|lamp|colou?r|blink|flash|identify)\b|灯/i, "set_led"],
  [/\b(reboot|restart|reset)\b|重启/i, "reboot"],
  [/\b(stop|halt|freeze)\b|停止/i, "stop"],
  [/\bping\b/i, "ping"],
  [/\b(move|drive|go|advance|travel|step|home|park|shift|bring)\b|移动|前进/i, "move"],
  [/\b(rotate|turn|spin|open|close|lift|lower|grip|release|wave|calibrate|start|enable|disable|shutdown)\b/i, null],
  [/\b(control|command|operate|actuate)\b|控制/i, "ping"],
];
const COLOURS = ["off", "red", "green", "blue", "white", "amber"];
const MM = { mm: 1, millimeter: 1, millimetre: 1, cm: 10, centimeter: 10, centimetre: 10, m: 1000, meter: 1000, metre: 1000 };
// Which axis a direction moves, and which way.
const AXES = [
  [/\b(forwards?|ahead|north)\b|前/i, "y", 1],
  [/\bleft|west\b|左/i, "x", -1],
  [/\bright|east\b|右/i, "x", 1],
  [/\bback|backwards?|south\b|后/i, "y", -1],
  [/\bup(wards?)?\b|上/i, "z", 1],
  [/\bdown(wards?)?\b|下/i, "z", -1],
];
const STEP_MM = 100;
// The server asks for the title of a conversation.
const TITLE = /^<question>\n([\s\S]*?)\n<\/question>/;
// What tries out budgets, pauses and failures (README.md): such words in a message that asks for no tool.
const FAILING = /\bfail with ([45]\d\d)\b/i;
const LONG = /\bin (\d+) words\b/i;
const MAX_WORDS = 20000;
const SLOW = /\bslowly\b/i;
const SLOWER = 20;
// How the server words the result of a call that has none.
const UNANSWERED = /^\{"error": ?"(The run ended before this call had a result|This call was not answered)/;
// How the server words the result of a call that came late.
const LATE = /The call \S+ of (\S+|a tool), open until now, (?:gave its result|failed):\n?/;
// Tools of the server, which are called for what is asked, not by name.
const SERVER_TOOLS = new Set(["searchDatabase", "controlDevice", "readTelemetry", "waitForFile"]);

function text(content) {
  if (typeof content === "string") return content;
  if (Array.isArray(content)) return content.map((part) => part?.text ?? "").join("");
  return "";
}

// At most so much of a text; not half of its last character.
function beginning(text, most) {
  return text.slice(0, most).replace(/[\ud800-\udbff]$/, "");
}

// What the user asked last, and the tool calls and results since then; apart from these, results of calls that were made
// before: they come together with the message, and aimock puts them behind it.
function currentTurn(messages) {
  let start = messages.length - 1;
  while (start > 0 && messages[start].role !== "user") start -= 1;
  const calls = new Map();
  const [results, earlier] = [[], []];
  for (const [at, message] of messages.entries()) {
    for (const call of message.tool_calls ?? []) calls.set(call.id, { name: call.function.name, at });
    if (message.role !== "tool" || at < start) continue;
    const call = calls.get(message.tool_call_id);
    const isEarlier = call !== undefined && call.at < start;
    (isEarlier ? earlier : results).push({ name: call?.name, content: text(message.content) });
  }
  // A call without an outcome has told nothing: what was asked is done as if it had not been made.
  while (results.length > 0 && UNANSWERED.test(results.at(-1).content)) results.pop();
  return { ...asked(text(messages[start]?.content)), results, earlier };
}

// What a turn of the user asks, and what it tells in words of calls whose results came late: these ask for nothing, though
// they name a tool. A result ends with its line, or with the turn: aimock puts the blocks of a turn together without a break.
function asked(turn) {
  const [before, ...parts] = turn.split(LATE);
  const [late, questions] = [[], [before]];
  for (let at = 0; at < parts.length; at += 2) {
    const [content, ...rest] = parts[at + 1].split("\n");
    late.push({ name: parts[at], content });
    questions.push(rest.join("\n"));
  }
  return { question: questions.join("\n").trim(), late };
}

function parsed(content) {
  try {
    return JSON.parse(content);
  } catch {
    return null;
  }
}

// Every object in a tool result that looks like a device.
function devicesIn(value, found = []) {
  if (Array.isArray(value)) for (const each of value) devicesIn(each, found);
  else if (value !== null && typeof value === "object") {
    const serial = value.serial ?? value.serial_number ?? value.thing_name;
    const id = value.device_id ?? value.id;
    if (serial !== undefined || (value.type === "device" && id !== undefined)) {
      found.push({
        key: serial ?? id,
        name: value.name ?? value.title ?? serial ?? id,
        online: value.online === true || value.is_online === true || value.status === "online" || value.presence === "online",
        words: [serial, id, value.name, value.title].filter((word) => typeof word === "string" && word !== ""),
      });
    }
    for (const each of Object.values(value)) if (typeof each === "object") devicesIn(each, found);
  }
  return found;
}

function chosen(question, devices) {
  const asked = question.toLowerCase();
  const named = devices.find((device) => device.words.some((word) => asked.includes(word.toLowerCase())));
  return named ?? devices.find((device) => device.online) ?? devices[0];
}

function commandIn(question) {
  for (const [pattern, name] of VERBS) {
    const match = question.match(pattern);
    if (match) return name ?? match[0].toLowerCase();
  }
  return undefined;
}

function target(question) {
  const place = { x: 0, y: 0 };
  if (/\b(home|park|origin)\b/i.test(question)) return { ...place, z: 0 };
  let named = false;
  for (const axis of ["x", "y", "z"]) {
    const match = question.match(new RegExp(`\\b${axis}\\s*(?:=|:|to|axis|by)?\\s*(-?\\d+(?:\\.\\d+)?)`, "i"));
    if (match) [place[axis], named] = [Number(match[1]), true];
  }
  if (named) return place;
  const pair = question.match(/\(?\s*(-?\d+(?:\.\d+)?)\s*[,;/]\s*(-?\d+(?:\.\d+)?)(?:\s*[,;/]\s*(-?\d+(?:\.\d+)?))?/);
  if (pair) {
    const [x, y, z] = pair.slice(1).map((number) => (number === undefined ? undefined : Number(number)));
    return z === undefined ? { x, y } : { x, y, z };
  }
  const amount = question.match(/(?<![\w.-])(\d+(?:\.\d+)?)\s*(mm|cm|m|(?:milli|centi)?met(?:er|re))?s?\b/i);
  const distance = amount === null ? STEP_MM : Number(amount[1]) * MM[(amount[2] ?? "mm").toLowerCase()];
  const [, axis, sign] = AXES.find(([pattern]) => pattern.test(question)) ?? [null, "y", 1];
  return { ...place, [axis]: sign * distance };
}

function paramsIn(question, command) {
  if (command === "move") return target(question);
  if (command === "set_led") {
    const asked = COLOURS.find((colour) => new RegExp(`\\b${colour}\\b`, "i").test(question));
    return { color: asked ?? "amber" };
  }
  return {};
}

function searchWords(question) {
  if (/\bonline\b|在线/i.test(question)) return "online devices";
  if (/\boffline\b/i.test(question)) return "offline devices";
  const serial = question.match(/\b[A-Za-z0-9]+[-_][A-Za-z0-9_-]*\d[A-Za-z0-9_-]*\b/);
  return serial ? serial[0] : "devices";
}

function use(name, values) {
  return { name, arguments: JSON.stringify(values) };
}

// A tool of the client that the message names, whole and in its own letters.
function namedTool(question, offered) {
  const words = new Set(question.match(/[A-Za-z0-9_-]+/g));
  return [...offered.keys()].find((name) => !SERVER_TOOLS.has(name) && words.has(name));
}

// Arguments that a tool's schema takes: the message for its first text, else its default, its first choice or the type's zero.
function argumentsFor(properties, question) {
  const values = {};
  let isSaid = false;
  for (const [name, schema] of Object.entries(properties)) {
    const plain = { number: 0, integer: 0, boolean: false, array: [], object: {} }[schema.type];
    if (schema.default !== undefined) values[name] = schema.default;
    else if (Array.isArray(schema.enum)) values[name] = schema.enum.find((each) => question.includes(each)) ?? schema.enum[0];
    else if (plain !== undefined) values[name] = plain;
    else if (!isSaid) [values[name], isSaid] = [beginning(question, 200), true];
    else values[name] = "";
  }
  return values;
}

// What a tool of the client said is told, and the message that came with it answered.
function answer(request) {
  const turn = currentTurn(request.messages);
  const told = turn.earlier.filter(({ name, content }) => !SERVER_TOOLS.has(name) && !UNANSWERED.test(content));
  const prefix = told.map(({ name, content }) => `The tool ${name} has answered, and this is what it said: ${beginning(content, 300)}. `);
  if (turn.question === "" && turn.results.length === 0 && turn.late.length > 0) {
    const { name, content } = turn.late.at(-1);
    return { content: `${prefix.join("")}The tool ${name} has answered late, and this is what it said: ${beginning(content, 300)}. That is all I need.` };
  }
  const response = answerTo(turn, request);
  return response.error ? response : { ...response, content: prefix.join("") + response.content };
}

function answerTo({ question, results }, request) {
  // The server asks for the title of a conversation: its first words.
  const titled = question.match(TITLE);
  if (titled) return { content: titled[1].split(/\s+/).slice(0, 6).join(" ") };
  const offered = new Map((request.tools ?? []).map((tool) => [tool.function.name, tool.function.parameters?.properties ?? {}]));
  const last = results.at(-1);
  const command = commandIn(question);
  const aboutDevices = DEVICE.test(question) || (command !== undefined && /[A-Za-z]+-[\w-]*\d/.test(question));

  if (last === undefined) {
    const named = namedTool(question, offered);
    if (named !== undefined) {
      return {
        content: `You name ${named}, a tool of your application. I call it now, and wait for its result. `,
        toolCalls: [use(named, argumentsFor(offered.get(named), question))],
      };
    }
    if (aboutDevices && offered.has("searchDatabase")) {
      return {
        content: "I will look that up among your devices first, and then go on from what is there. ",
        toolCalls: [use("searchDatabase", { query: searchWords(question), type: "device", limit: 50 })],
      };
    }
    if (SEARCH.test(question) && DEVICE.test(question)) {
      return { content: "I cannot search here, since no search tool was offered to me. Ask me anything else and I will gladly answer." };
    }
    const status = question.match(FAILING);
    if (status) return { error: { message: "The offline model fails, as it was asked to", type: "api_error" }, status: Number(status[1]) };
    const words = question.match(LONG);
    if (words) return { content: Array.from({ length: Math.min(Number(words[1]), MAX_WORDS) }, (_, n) => `word${n + 1}`).join(" ") };
    return {
      content: `You said: "${beginning(question, 200)}". I am the offline model of the local environment: I stream this answer in small pieces, and I can find your devices and control them. Ask me which devices are online, or tell me to move one.`,
    };
  }

  if (last.name === "searchDatabase") {
    const devices = devicesIn(parsed(last.content));
    const device = chosen(question, devices);
    if (device === undefined) {
      return { content: "I searched your devices and found none that match. Register one first, or ask for it by its serial number." };
    }
    if (command !== undefined && offered.has("controlDevice")) {
      const values = { device_id: device.key, command };
      const params = paramsIn(question, command);
      if (Object.keys(params).length > 0) values.params = params;
      return {
        content: `I found ${device.name} (${device.key}). Sending it the command "${command}" now. `,
        toolCalls: [use("controlDevice", values)],
      };
    }
    const list = devices.map((each) => `${each.name} (${each.key}, ${each.online ? "online" : "not online"})`).join("; ");
    return { content: `I found ${devices.length} of your devices: ${list}. Tell me what one of them should do and I will pass it on.` };
  }

  if (last.name === "controlDevice") {
    const outcome = parsed(last.content);
    const failed = outcome === null || outcome.success === false || outcome.error;
    return failed
      ? { content: `The device did not carry out the command. This is what came back from it: ${beginning(last.content, 300)}` }
      : { content: `Done. The device carried out the command and reported back: ${beginning(JSON.stringify(outcome.result ?? outcome), 300)}. Is there anything else that it should do?` };
  }

  return { content: `The tool ${last.name ?? "that I called"} has answered, and this is what it said: ${beginning(last.content, 300)}. That is all I need.` };
}

// aimock itself would answer a preflight, a request for its health, and an upgrade of whoever asks. Its one client is the
// program in front, which has asked local/cross_origin.py; whatever comes from elsewhere ends here, before aimock sees it.
const heard = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, answer, ...more) {
  const asks = request instanceof http.IncomingMessage && request.headers["x-api-key"] !== key;
  if (!asks) return heard.call(this, event, request, answer, ...more);
  const body = JSON.stringify({ message: "this path is for the program in front of the model alone" });
  const said = { "content-type": "application/json", "content-length": Buffer.byteLength(body), connection: "close" };
  if (answer instanceof http.ServerResponse) answer.writeHead(403, said).end(body);
  else {
    const head = Object.entries(said).map(([name, value]) => `${name}: ${value}\r\n`);
    answer.end(`HTTP/1.1 403 Forbidden\r\n${head.join("")}\r\n${body}`);
  }
  return true;
};

const mock = new LLMock({ port, host: "127.0.0.1", latency: pace, chunkSize: PIECE, logLevel: "warn", journalMaxEntries: 200, auth: { apiKeys: [key] } });
const answered = (request) => {
  const response = answer(request);
  if (response.error) return response;
  // Roughly four characters a token, as billing code needs numbers above zero.
  const asked = request.messages.reduce((sum, message) => sum + text(message.content).length, 0);
  const said = (response.content ?? "").length + JSON.stringify(response.toolCalls ?? "").length;
  return { ...response, usage: { input_tokens: Math.ceil(asked / 4), output_tokens: Math.ceil(said / 4) } };
};
const isSlow = (request) => SLOW.test(currentTurn(request.messages).question) && !TITLE.test(currentTurn(request.messages).question);
mock.on({ predicate: isSlow }, answered, { latency: pace * SLOWER });
mock.on({ predicate: () => true }, answered);
await mock.start();
console.log(`offline model on ${mock.url}`);
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, async () => {
    await mock.stop();
    process.exit(0);
  });
}
