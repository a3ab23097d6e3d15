// Watches channels by the package, and prints what a page would show, a JSON line after each change.
// usage: node live.mjs DIST URL CHANNEL...
import { pathToFileURL } from "node:url";

const [dist, apiUrl, ...channels] = process.argv.slice(2);
const { KarmaLive } = await import(pathToFileURL(`${dist}/live.js`));
const shown = Object.fromEntries(channels.map((channel) => [channel, {}]));
const show = () => console.log(JSON.stringify(shown));
const streamUrl = process.env.WAY === "stream" ? apiUrl : undefined;
const live = new KarmaLive({ apiUrl, streamUrl, token: "t", pingMs: 200 });
const list = async (channel) => {
  shown[channel] = await (await fetch(`${apiUrl}/list`)).json();
  show();
};
for (const channel of channels) {
  live.subscribe(channel, ({ kind, object, data, prev, seq }) => {
    if (kind === "gap") return void list(channel);
    const objects = shown[channel];
    if (kind === "changed") objects[object] = data?.version ?? "by reference";
    else if (kind === "deleted") delete objects[object];
    else (objects[object] ??= []).push(...(data ? [data.n] : Array.from({ length: seq - prev }, (_, at) => prev + 1 + at)));
    show();
  });
}
process.stdin.on("end", () => live.close()).resume();
