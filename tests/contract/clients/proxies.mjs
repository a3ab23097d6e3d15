// Runs an agent through answers of proxies: prints, for each list of answers on standard input, what came of it.
// usage: node proxies.mjs FOLDER: the compiled package. An answer is {status, body, headers?, isCut?}; the last one comes again and again.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { reattaching } = await import(new URL("reattaching.js", pathToFileURL(`${process.argv[2]}/`)));
for await (const line of createInterface({ input: process.stdin })) {
  const left = JSON.parse(line);
  const send = async () => {
    const { status, body, headers, isCut } = left.length > 1 ? left.shift() : left[0];
    const cut = () => new ReadableStream({ pull: (controller) => controller.error(new TypeError("terminated")) });
    return new Response(isCut ? cut() : body, { status, headers });
  };
  const response = await reattaching({ send, patience: 2 })("http://x/api/v1/agent", { method: "POST", body: '{"runId":"r"}' });
  console.log(JSON.stringify({ status: response.status, text: await response.text() }));
}
